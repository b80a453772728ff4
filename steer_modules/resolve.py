"""Turns the arguments of one forward pass into its SteeringCall: its cache, its columns, where headers end.

Whatever the arguments are called and however a caller cut a sequence up, the columns of a pass and what comes before them
must be known for certain. Where they are not, this raises: a gate that is guessed would be a memory that is told.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from .call import SteeringCall
from .columns import Columns, linear_columns, masked_columns, packed_columns
from .proof import Traits
from .state import Carried, find_cache, recorded

_PACKED = ("cu_seq_lens_q", "cu_seq_lens_k", "cu_seqlens", "seq_idx", "block_tables", "slot_mapping")


def resolve_call(
    steering: Any,
    arguments: dict[str, Any],
    table: Any,
    *,
    window: int | None,
    steering_gate: Tensor | None,
    steering_mask: Tensor | None,
) -> SteeringCall:
    """The call of a forward pass with these named ``arguments`` of the stock model.

    ``use_cache`` among them is set to False where sequences are packed, since Transformers keeps those apart only so; and
    ``position_ids`` are counted from the first real column where the stock class does not do it by itself.

    Args:
        table: the model's embedding module.
        window: columns that the narrowest layer sees, None for all.
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
            f"{packed[0]} packs several sequences into one row in a way that hides where each begins; give a steered model one "
            "sequence a row, or restart position_ids without a mask and a cache"
        )
    ids, embeds = arguments.get("input_ids"), arguments.get("inputs_embeds")
    tokens = ids if ids is not None else embeds
    if tokens is None:
        raise ValueError("a steered model needs input_ids or inputs_embeds")
    batch, length = tokens.shape[0], tokens.shape[1]
    cache = find_cache(arguments)
    carried = _carried(steering, cache, batch, tokens.device)
    columns = _columns(arguments, carried, steering_mask, batch, length, cache, steering.traits, window)
    headers = steering.headers
    found = headers.in_ids(ids) if ids is not None else headers.in_embeddings(embeds, table)
    bits = headers.follow(found, columns, carried.bits) if len(headers) else found
    decisive: Tensor | None = headers.complete(bits) if steering.decides_at_headers else None
    if decisive is not None and columns.real is not None:
        decisive = decisive & columns.real.to(decisive.device)
    if decisive is not None and not bool(decisive.any()):
        decisive = None
    given = _given(steering_gate, batch, steering.gate_names)
    return SteeringCall(steering.gate_names, columns, carried, bits, decisive, given)


def refuse_tracing() -> None:
    """Raises RuntimeError under a tracer that would keep one prompt's decisions for all prompts."""
    tracing = torch.jit.is_tracing() or torch.compiler.is_exporting()
    if not tracing and not torch.compiler.is_compiling():
        proxy = getattr(torch.fx.experimental, "proxy_tensor", None)
        tracing = proxy is not None and proxy.get_proxy_mode() is not None
    if tracing:
        raise RuntimeError(
            "a traced graph would keep the gates of the prompt it was traced with. Write a graph that decides for itself with "
            "'steerbake export onnx', or a checkpoint that needs no code with 'steerbake export stock'"
        )


def _carried(steering: Any, cache: Cache | None, batch: int, device: torch.device) -> Carried:
    keys = None if cache is None else recorded(cache, steering.features)
    if keys is None:
        return Carried.blank(steering.features, batch, device)
    if keys.shape[0] != batch:
        raise ValueError(f"the cache holds {keys.shape[0]} rows, but this batch has {batch}")
    return Carried.read(steering.features, keys.to(device))


def _columns(
    arguments: dict[str, Any],
    carried: Carried,
    steering_mask: Tensor | None,
    batch: int,
    length: int,
    cache: Cache | None,
    traits: Traits,
    window: int | None,
) -> Columns:
    """The columns of this pass, with mask, positions and cache checked against each other."""
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
                "the cache holds padding, but no attention_mask says where; pass the 2-D attention_mask over all columns"
            )
        columns = linear_columns(batch, length, past, None)
    elif isinstance(mask, Tensor) and mask.dim() == 4:
        if window is not None and past + length > window:
            raise ValueError(
                f"a 4-D attention mask over {past + length} columns overrides the sliding window of {window} that some layers have, so "
                "the model would be another one; give a 2-D mask"
            )
        columns = masked_columns(_visible(mask, past, batch, length), carried.real.to(mask.device))
    else:
        raise ValueError(
            f"the attention_mask is a {type(mask).__name__}, from which a steered model cannot tell the columns of a sequence; "
            "give a 2-D mask"
        )
    if columns.real is not None and not traits.places and arguments.get("position_ids") is None:
        counted = columns.totals(
            torch.ones(batch, length, 1, device=carried.count.device), carried.count.unsqueeze(1)
        )
        arguments["position_ids"] = (counted.squeeze(-1).long() - 1).clamp_min(0)
    restarts = _restarts(arguments, columns, carried, packable=flat is None and mask is None and not past)
    if restarts is None:
        return columns
    if not traits.packs:
        raise ValueError(
            "position_ids begin anew within a row, but this model's sequences would see each other there; give one sequence a row"
        )
    if cache is not None or arguments.get("use_cache"):
        raise ValueError(
            "position_ids begin anew within a row, but with a cache Transformers lets the sequences of a row see each other; "
            "pass use_cache=False, or give one sequence a row"
        )
    arguments["use_cache"] = False
    return packed_columns(restarts)


def _flat(mask: Tensor, carried: Carried, batch: int, length: int) -> Tensor:
    """Real columns [B, T] of this pass by a 2-D mask over cache and pass."""
    past = carried.real.shape[1]
    if mask.shape != (batch, past + length):
        raise ValueError(
            f"attention_mask has shape {list(mask.shape)}, but {past} columns are in the cache and {batch} rows of {length} are "
            "given; it covers them all"
        )
    real = mask.bool()
    if past and not torch.equal(real[:, :past].to(carried.real.device), carried.real):
        raise ValueError(
            "attention_mask shows other columns of the cache than it did when they were computed, so the sequence is another "
            "one; start from an empty cache"
        )
    return real[:, past:]


def _visible(mask: Tensor, past: int, batch: int, length: int) -> Tensor:
    """What each column sees, [B, T, P + T] bool, by a 4-D mask of truth values or of numbers to add."""
    if mask.shape[0] not in (1, batch) or mask.shape[2] != length or mask.shape[3] < past + length:
        raise ValueError(
            f"the 4-D attention mask has shape {list(mask.shape)}; expected [{batch}, 1, {length}, {past + length}]"
        )
    seen = mask if mask.dtype == torch.bool else mask > torch.finfo(torch.float16).min / 2
    if not mask.dtype.is_floating_point and mask.dtype != torch.bool:
        seen = mask > 0
    first = seen[:, :1]
    if bool((seen != first).any()) or bool(seen[..., past + length :].any()):
        raise ValueError(
            "the 4-D attention mask differs from head to head, or shows columns that do not exist yet"
        )
    return first[:, 0, :, : past + length].expand(batch, -1, -1)


def _restarts(
    arguments: dict[str, Any], columns: Columns, carried: Carried, *, packable: bool
) -> Tensor | None:
    """Where sequences begin by ``position_ids``, [B, T] bool; None: as ``columns`` have it.

    Raises:
        ValueError: the positions say that columns came before which no cache holds, or go on where none did.
    """
    start = arguments.get("cache_position")
    if isinstance(start, Tensor) and start.numel() and int(start.reshape(-1)[0]) != columns.past:
        raise ValueError(
            f"cache_position begins at {int(start.reshape(-1)[0])}, but the cache holds {columns.past} columns of this model"
        )
    positions = arguments.get("position_ids")
    if not isinstance(positions, Tensor):
        return None
    if positions.dim() == 3:
        if positions.shape[0] == 3:
            # A picture's columns share a position in time; what is least of the three never falls within a sequence.
            _check_spread(positions.amin(0).expand(columns.batch, -1), columns)
            return None
        positions = positions[0]
    positions = positions.expand(columns.batch, -1)
    expected = _expected(positions, columns, carried)
    wrong = positions != expected
    if columns.real is not None:
        wrong = wrong & columns.real.to(wrong.device)
    if not bool(wrong.any()):
        return None
    if not packable or bool((positions[:, 0] != 0).any()):
        raise ValueError(
            f"position_ids {positions[:1].tolist()} do not go on from the {columns.past} columns that this model has seen, so what "
            "came before is not known; pass the cache this model filled, or whole sequences"
        )
    starts = torch.ones_like(wrong)
    starts[:, 1:] = positions[:, 1:] != positions[:, :-1] + 1
    if bool((positions[starts] != 0).any()):
        raise ValueError(
            "position_ids leap within a row to a position that is not 0: what came before is not known; begin each sequence at 0"
        )
    return starts


def _expected(positions: Tensor, columns: Columns, carried: Carried) -> Tensor:
    """Positions [B, T] that follow from those before them and from how many columns the cache holds."""
    own = positions.unsqueeze(-1)
    count = carried.count.to(positions.device).long().unsqueeze(1)
    before = columns.preceding(own, count - 1).squeeze(-1)
    if columns.linear:
        return before + 1
    assert columns.before is not None
    begins = columns.before.to(positions.device) == 0
    return torch.where(begins, positions, before + 1)


def _check_spread(least: Tensor, columns: Columns) -> None:
    """Positions in space: they begin at 0 and never fall within a sequence."""
    real = torch.ones_like(least, dtype=torch.bool) if columns.real is None else columns.real.to(least.device)
    highest = torch.where(real, least, -1).cummax(1).values
    falls = bool((real & (least < highest)).any())
    first = torch.where(real, least, torch.iinfo(least.dtype).max).amin(1)
    if falls or (columns.past == 0 and bool((first != 0).any())):
        raise ValueError(
            "position_ids begin anew within a row, or in the middle of a sequence that no cache holds; give one whole sequence a row"
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
