"""Checks the positions of a pass against its columns: they continue the cache, or are supplied, or separate sequences.

Positions must match the cache, because a gate without its past would restart in the middle of a sequence.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .columns import Columns, packed_columns
from .positions import Reach
from .proof import Traits
from .state import Carried, find_cache


def placed(
    arguments: dict[str, Any],
    columns: Columns,
    carried: Carried,
    traits: Traits,
    reach: Reach,
    *,
    masked: bool,
) -> Columns:
    """The columns, once their positions are checked or, where the caller gives none and padding needs them, supplied.

    Args:
        arguments: of the stock forward; ``position_ids`` and ``use_cache`` among them may be set.
        masked: a mask says which columns are real; without one, and without a past, positions that restart separate sequences.

    Raises:
        ValueError: positions that do not continue what this model has processed, or that it does not support.
    """
    if reach.stretches is not None and columns.past + columns.length > reach.stretches:
        raise ValueError(
            f"beyond {reach.stretches} columns this model recomputes its rotary positions for all columns, except those in a cache, so "
            "its output would depend on how the sequence is cut. Use shorter sequences, or another rope_type"
        )
    if reach.window is not None and columns.linear and _has_gaps(columns, carried):
        raise ValueError(
            "there is padding between columns of a sequence, and sliding-window layers of this model count it; pad on the left"
        )
    if masked and columns.linear and arguments.get("position_ids") is None:
        supplied = _supplied(columns, carried, traits, reach)
        if supplied is not None:
            arguments["position_ids"] = supplied
        return columns
    restarts = _restarts(
        arguments,
        columns,
        carried,
        packable=not masked and not columns.past,
        traits=traits,
        spatial=reach.spatial,
    )
    if restarts is None:
        return columns
    if not traits.packs:
        raise ValueError(
            "position_ids restart within a row, but this model's sequences would attend to each other there; give one sequence a row"
        )
    if find_cache(arguments) is not None or arguments.get("use_cache"):
        raise ValueError(
            "position_ids restart within a row, but with a cache Transformers lets the sequences of a row attend to each other; pass "
            "use_cache=False, or give one sequence a row"
        )
    arguments["use_cache"] = False
    return packed_columns(restarts)


def _supplied(columns: Columns, carried: Carried, traits: Traits, reach: Reach) -> Tensor | None:
    """Positions [B, T] of rows with padding, where the stock class would count some of the padding in; None: it does not.

    Padding that only leads a row moves all its positions alike, which rotary attention does not see.
    """
    if columns.real is None and bool(carried.real.all()):
        return None
    if traits.places and not _has_gaps(columns, carried):
        return None
    real, leading = _all_real(columns, carried)
    if reach.spatial:
        raise ValueError(
            "there is padding between columns of a sequence, and this model counts it in its positions; pad on the left, or give "
            "position_ids"
        )
    placed = real.long().cumsum(1) - 1 + (leading if traits.places else 0)
    return placed[:, columns.past :].clamp_min(0)


def _restarts(
    arguments: dict[str, Any],
    columns: Columns,
    carried: Carried,
    *,
    packable: bool,
    traits: Traits,
    spatial: bool,
) -> Tensor | None:
    """Where sequences begin by ``position_ids``, [B, T] bool; None: as ``columns`` have it.

    Raises:
        ValueError: the positions say that columns came before which no cache holds, or go on where none did.
    """
    start = arguments.get("cache_position")
    if isinstance(start, Tensor) and start.numel() and int(start.reshape(-1)[0]) != columns.past:
        raise ValueError(
            f"cache_position begins at {int(start.reshape(-1)[0])}, but the cache contains {columns.past} columns of this model"
        )
    positions = arguments.get("position_ids")
    if not isinstance(positions, Tensor):
        return None
    if positions.dim() == 3:
        if spatial and positions.shape[0] != 4:
            # The axis of time: it stands still within a picture, and never falls within a sequence.
            _check_spread(positions[0].expand(columns.batch, -1), columns)
            return None
        positions = positions[0]
    positions = positions.expand(columns.batch, -1)
    wrong = positions != _expected(positions, columns, carried)
    if columns.real is not None:
        real = columns.real.to(wrong.device)
        # Counted over leading padding too, positions keep their distances, which is what rotary attention reads.
        by_column = torch.arange(columns.past, columns.past + columns.length, device=positions.device)
        moved = (real & (positions != by_column)).any(1, keepdim=True)
        wrong = wrong & real & (moved | (not traits.places) | _gaps(columns, carried).to(wrong.device))
    if not bool(wrong.any()):
        return None
    if not packable or bool((positions[:, 0] != 0).any()):
        if not bool(carried.real[:, -1:].all()):
            raise ValueError(
                "position_ids do not count the padding at the end of the cache, so earlier columns are unknown; pad prompts on the left "
                "(padding_side='left') to generate behind them"
            )
        raise ValueError(
            f"position_ids {positions[:1].tolist()} do not continue the {columns.past} columns that this model has processed, so earlier "
            "columns are unknown; pass the cache this model filled, or whole sequences"
        )
    starts = torch.ones_like(wrong)
    starts[:, 1:] = positions[:, 1:] != positions[:, :-1] + 1
    if bool((positions[starts] != 0).any()):
        raise ValueError(
            "position_ids jump within a row to a position other than 0, so earlier columns are unknown; begin each sequence at 0"
        )
    return starts


def _all_real(columns: Columns, carried: Carried) -> tuple[Tensor, Tensor]:
    """Real columns of cache and pass, [B, P + T] bool, and how much padding leads each row, [B, 1]."""
    here = columns.real
    if here is None:
        here = torch.ones(columns.batch, columns.length, dtype=torch.bool, device=carried.real.device)
    real = torch.cat([carried.real, here.to(carried.real.device)], dim=1)
    return real, real.long().argmax(1, keepdim=True)


def _has_gaps(columns: Columns, carried: Carried) -> bool:
    """Whether padding stands between real columns of any row."""
    padded = columns.real is not None or not bool(carried.real.all())
    return padded and bool(_gaps(columns, carried).any())


def _gaps(columns: Columns, carried: Carried) -> Tensor:
    """Rows [B, 1] in which padding stands between real columns."""
    real, leading = _all_real(columns, carried)
    column = torch.arange(real.shape[1], device=real.device)
    return (real & (column - leading + 1 != real.long().cumsum(1))).any(1, keepdim=True)


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
            "position_ids restart within a row, or begin in the middle of a sequence that is not in a cache; give one whole sequence a row"
        )
