"""Turns the arguments of one forward pass into its SteeringCall: its cache, its columns, where headers end.

Whatever the arguments are called and however a caller cut a sequence up, the columns of a pass and what comes before them
must be known for certain. Otherwise this raises an error: a guessed gate could leak.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from .call import SteeringCall
from .columns import Columns, linear_columns, masked_columns
from .headers import Headers
from .placement import placed
from .positions import Reach
from .state import Carried, find_cache, recorded

_HIDDEN = -1e3
"""What a 4-D mask adds to a column that is not to be seen is lower."""
_PACKED = ("cu_seq_lens_q", "cu_seq_lens_k", "cu_seqlens", "seq_idx", "block_tables", "slot_mapping")


def resolve_call(
    steering: Any,
    arguments: dict[str, Any],
    table: Any,
    *,
    reach: Reach,
    steering_gate: Tensor | None,
    steering_mask: Tensor | None,
) -> SteeringCall:
    """The call of a forward pass with these named ``arguments`` of the stock model.

    ``use_cache`` among them is set to False where sequences are packed, since Transformers keeps those apart only so; and
    ``position_ids`` are counted from the first real column where the stock class does not do it by itself.

    Args:
        table: the model's embedding module.
        reach: what the config says of the columns that the decoder sees.
        steering_gate: [B, G], 1 force on, 0 hold off, -1 decide.
        steering_mask: [B, P + T], the 2-D padding mask where ``attention_mask`` is not one.

    Raises:
        RuntimeError: the pass is traced.
        TypeError: a cache that is none of Transformers'.
        ValueError: a mask, gate or positions that do not fit, a cache that this model did not fill, columns whose past is
            not known.
    """
    refuse_tracing()
    packed = [name for name in _PACKED if arguments.get(name) is not None]
    if packed:
        raise ValueError(
            f"{packed[0]} packs several sequences into one row without showing where each begins; give a steered model one sequence a "
            "row, or restart position_ids without a mask and a cache"
        )
    ids, embeds = arguments.get("input_ids"), arguments.get("inputs_embeds")
    tokens = ids if ids is not None else embeds
    if tokens is None:
        raise ValueError("a steered model needs input_ids or inputs_embeds")
    batch, length = tokens.shape[0], tokens.shape[1]
    cache = find_cache(arguments)
    carried = _carried(steering, cache, batch, tokens.device)
    columns = _columns(arguments, carried, steering_mask, batch, length, reach.window)
    columns = placed(
        arguments, columns, carried, steering.traits, reach, masked=_is_masked(arguments, steering_mask)
    )
    _refuse_no_columns(columns, carried)
    headers = steering.headers
    found = headers.in_ids(ids) if ids is not None else headers.in_embeddings(embeds, table)
    bits = headers.follow(found, columns, carried.bits) if len(headers) else found
    if steering.decides_at_headers:
        _refuse_hidden_header(headers, found, columns, carried)
    decisive: Tensor | None = headers.complete(bits) if steering.decides_at_headers else None
    if decisive is not None and columns.real is not None:
        decisive = decisive & columns.real.to(decisive.device)
    if decisive is not None and not bool(decisive.any()):
        decisive = None
    given = _given(steering_gate, batch, steering.gate_names)
    return SteeringCall(
        steering.gate_names, columns, carried, bits, decisive, given, section=steering.section
    )


def refuse_tracing() -> None:
    """Raises RuntimeError under a tracer that would keep one prompt's decisions for all prompts."""
    tracing = torch._C._is_tracing() or torch.compiler.is_exporting()
    if not tracing and not torch.compiler.is_compiling():
        proxy = getattr(torch.fx.experimental, "proxy_tensor", None)
        tracing = proxy is not None and proxy.get_proxy_mode() is not None
    if tracing:
        raise RuntimeError(
            "a traced graph would keep the gates of the prompt it was traced with. Use 'steerbake export onnx' for a graph that computes "
            "its gates, or 'steerbake export stock' for a checkpoint without code"
        )


def _carried(steering: Any, cache: Cache | None, batch: int, device: torch.device) -> Carried:
    keys = None if cache is None else recorded(cache, steering.features)
    if keys is None:
        return Carried.blank(steering.features, batch, device)
    if keys.shape[0] != batch:
        raise ValueError(f"the cache contains {keys.shape[0]} rows, but this batch has {batch}")
    return Carried.read(steering.features, keys.to(device))


def _columns(
    arguments: dict[str, Any],
    carried: Carried,
    steering_mask: Tensor | None,
    batch: int,
    length: int,
    window: int | None,
) -> Columns:
    """The columns of this pass by its mask and its cache, checked against each other."""
    past = carried.real.shape[1]
    mask = arguments.get("attention_mask")
    if isinstance(mask, dict):
        mask = mask.get("full_attention")
    flat = mask if isinstance(mask, Tensor) and mask.dim() == 2 else steering_mask
    if flat is not None:
        columns = linear_columns(batch, length, past, _flat(flat, carried, batch, length))
    elif mask is None:
        if past and not bool(carried.real.all()):
            raise ValueError(
                "the cache contains padding, but there is no attention_mask; pass the 2-D attention_mask over all columns"
            )
        columns = linear_columns(batch, length, past, None)
    elif isinstance(mask, Tensor) and mask.dim() == 4:
        if window is not None and past + length > window:
            raise ValueError(
                f"a 4-D attention mask over {past + length} columns overrides the sliding window of {window} of some layers, which would "
                "change the model; give a 2-D mask"
            )
        columns = masked_columns(_visible(mask, past, batch, length), carried.real.to(mask.device))
    else:
        raise ValueError(
            f"the attention_mask is a {type(mask).__name__}, which does not show the columns of each sequence; give a 2-D mask"
        )
    return columns


def _is_masked(arguments: dict[str, Any], steering_mask: Tensor | None) -> bool:
    return arguments.get("attention_mask") is not None or steering_mask is not None


def _flat(mask: Tensor, carried: Carried, batch: int, length: int) -> Tensor:
    """Real columns [B, T] of this pass by a 2-D mask over cache and pass."""
    past = carried.real.shape[1]
    if mask.shape != (batch, past + length):
        raise ValueError(
            f"attention_mask has shape {list(mask.shape)}, but must cover the {past} columns in the cache and the {batch} rows of "
            f"{length} given"
        )
    real = mask.bool()
    if past and not torch.equal(real[:, :past].to(carried.real.device), carried.real):
        raise ValueError(
            "attention_mask marks other columns of the cache than when they were computed, so the sequence is a different one; start from "
            "an empty cache"
        )
    return real[:, past:]


def _visible(mask: Tensor, past: int, batch: int, length: int) -> Tensor:
    """What each column sees, [B, T, P + T] bool, by a 4-D mask of truth values or of numbers to add."""
    if mask.shape[0] not in (1, batch) or mask.shape[2] != length or mask.shape[3] < past + length:
        raise ValueError(
            f"the 4-D attention mask has shape {list(mask.shape)}; expected [{batch}, 1, {length}, {past + length}]"
        )
    seen = mask if mask.dtype == torch.bool else mask > _HIDDEN
    if not mask.dtype.is_floating_point and mask.dtype != torch.bool:
        seen = mask > 0
    first = seen[:, :1]
    if bool((seen != first).any()) or bool(seen[..., past + length :].any()):
        raise ValueError(
            "the 4-D attention mask differs from head to head, or shows columns that do not exist yet"
        )
    return first[:, 0, :, : past + length].expand(batch, -1, -1)


def _refuse_no_columns(columns: Columns, carried: Carried) -> None:
    """Raises where a mask leaves a row without any column: the stock class answers all the same, and no gate reads it."""
    if columns.real is None or bool(
        (columns.real.any(1) | carried.real.any(1).to(columns.real.device)).all()
    ):
        return
    raise ValueError(
        "attention_mask is 0 in every column of a row, so there is no sequence for a gate to read; give 1 for every token, and leave out rows "
        "that are all padding"
    )


def _refuse_hidden_header(headers: Headers, found: Tensor, columns: Columns, carried: Carried) -> None:
    """Raises where a mask hides the end of the last generation header of a row: the reply begins there, and the gate would not decide."""
    if columns.real is None:
        return
    real = columns.real.to(found.device)
    plain = (
        Columns(columns.batch, columns.length, columns.past)
        if columns.linear
        else replace(columns, real=None)
    )
    ends = headers.complete(headers.follow(found, plain, carried.bits))
    behind = ~real.flip(1).cummax(1).values.flip(1)
    if bool((ends & behind).any()):
        raise ValueError(
            "attention_mask hides the last token of a generation header, where the reply begins, so no gate would decide there; give 1 for "
            "every token of the prompt, and pad on the left"
        )


def _given(gate: Tensor | None, batch: int, names: tuple[str, ...]) -> Tensor | None:
    if gate is None:
        return None
    if gate.shape != (batch, len(names)):
        raise ValueError(
            f"steering_gate has shape {list(gate.shape)}; expected [{batch}, {len(names)}] for gates {list(names)}"
        )
    if not bool(((gate == -1) | (gate == 0) | (gate == 1)).all()):
        raise ValueError(
            f"steering_gate holds {gate.tolist()}; each value is 1 (steer), 0 (do not) or -1 (decide)"
        )
    return None if bool((gate == -1).all()) else gate
