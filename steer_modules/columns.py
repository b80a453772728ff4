"""Columns of one forward pass: which are real, and which column comes before each within its own sequence.

A row may hold padding and several sequences; a cache may hold what came before. Everything that steering carries along a
sequence (a gate that fired, part of a generation header, a running sum) goes from a column to the next by these pointers, so
it does not matter how a sequence was cut into passes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BLANK, CARRIED, FIRST = 0, 1, 2
"""Places in an array over [nothing, what the cache holds, the columns of this pass]."""


@dataclass(frozen=True)
class Columns:
    """The T columns of a pass behind ``past`` columns of a cache.

    Attributes:
        batch, length, past: B, T and the number of columns in the cache.
        real: [B, T] bool, no padding; None: all are real.
        before: [B, T] int64, place of the column before (see :data:`FIRST`); None: the column to the left, and what the cache
            holds before the first.
        linear: every row holds one sequence, which goes on from the cache.
    """

    batch: int
    length: int
    past: int
    real: Tensor | None = None
    before: Tensor | None = None
    linear: bool = True

    def preceding(self, values: Tensor, carried: Tensor) -> Tensor:
        """Values [B, T, F] of the column before each, given those carried from the cache [B, F]; zero at a beginning."""
        if self.before is None:
            return torch.cat([carried.unsqueeze(1), values[:, :-1]], dim=1)
        blank = torch.zeros_like(carried).unsqueeze(1)
        places = torch.cat([blank, carried.unsqueeze(1), values], dim=1)
        return places.gather(1, _wide(self.before, values.shape[2]).to(values.device))

    def totals(self, values: Tensor, carried: Tensor) -> Tensor:
        """Sums [B, T, F] over a sequence up to and with each column, ``carried`` [B, F] included; padding adds nothing.

        Padding columns have the sum of the column before them.
        """
        if self.real is not None:
            values = values * self.real.to(values.device).unsqueeze(-1)
        if self.linear:
            return values.cumsum(1) + carried.unsqueeze(1)
        assert self.before is not None
        # Pointer doubling: after k rounds a place holds the sum of itself and the 2**k - 1 places before it.
        before = self.before.to(values.device)
        roots = torch.zeros_like(before[:, :1])
        pointer = torch.cat([roots, roots, before], dim=1)
        places = torch.cat([torch.zeros_like(carried).unsqueeze(1), carried.unsqueeze(1), values], dim=1)
        for _ in range((self.length + 1).bit_length()):
            places = places + places.gather(1, _wide(pointer, places.shape[2]))
            pointer = pointer.gather(1, pointer)
        return places[:, FIRST:]

    def latched(self, fired: Tensor, carried: Tensor) -> Tensor:
        """From which column on something stays on: fired [B, T] bool, carried [B] bool -> [B, T] bool."""
        return self.totals(fired.long().unsqueeze(-1), carried.long().unsqueeze(-1)).squeeze(-1) > 0


def linear_columns(batch: int, length: int, past: int, mask: Tensor | None) -> Columns:
    """One sequence a row, ``mask`` [B, T] bool its real columns; None or all real: no padding."""
    if mask is None or bool(mask.all()):
        return Columns(batch, length, past)
    places = torch.arange(FIRST, FIRST + length, device=mask.device)
    last = torch.where(mask, places, CARRIED).cummax(1).values
    before = torch.cat([torch.full_like(last[:, :1], CARRIED), last[:, :-1]], dim=1)
    return Columns(batch, length, past, mask, before)


def packed_columns(starts: Tensor) -> Columns:
    """Several sequences a row without padding or past: ``starts`` [B, T] bool, the first column of each."""
    batch, length = starts.shape
    before = torch.arange(FIRST - 1, FIRST - 1 + length, device=starts.device).expand(batch, length)
    return Columns(batch, length, 0, None, torch.where(starts, BLANK, before), linear=False)


def masked_columns(visible: Tensor, past_real: Tensor) -> Columns:
    """Sequences as a 4-D mask tells them apart.

    Args:
        visible: [B, T, P + T] bool, which columns each column of this pass sees.
        past_real: [B, P] bool, columns of the cache that are no padding.

    Raises:
        ValueError: a column sees a later one, or anything but the whole of one sequence before it: then no order of the
            columns gives what the mask gives, and gates cannot be told.
    """
    batch, length, total = visible.shape
    past = total - length
    behind, here = visible[:, :, :past], visible[:, :, past:]
    real = here.diagonal(dim1=1, dim2=2)
    earlier = here & ~torch.eye(length, dtype=torch.bool, device=visible.device)
    columns = torch.arange(length, device=visible.device)
    place = torch.where(earlier, columns + FIRST, BLANK).amax(2)
    continues = (place == BLANK) & behind.any(2)
    before = torch.where(continues, CARRIED, place)
    # What a column sees must be what the column before it sees, and that column.
    index = _wide((before - FIRST).clamp_min(0), length)
    expected = torch.where((before >= FIRST).unsqueeze(2), here.gather(1, index), False)
    expected_behind = torch.where(
        continues.unsqueeze(2),
        past_real.unsqueeze(1),
        behind.gather(1, index[:, :, :1].expand(-1, -1, past)) & (before >= FIRST).unsqueeze(2),
    )
    future = (here & (columns > columns.unsqueeze(1))).any()
    other = ((earlier != expected).any(2) | (behind != expected_behind).any(2)) & real
    if bool(future | other.any()):
        raise ValueError(
            "the 4-D attention mask is not causal attention over whole sequences (a column attends to a later one, or to only part of its "
            "sequence), so gates cannot be located; give a 2-D attention_mask"
        )
    return Columns(batch, length, past, real, before, linear=False)


def _wide(index: Tensor, width: int) -> Tensor:
    return index.unsqueeze(-1).expand(-1, -1, width)
