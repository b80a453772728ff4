"""The two halves of an attack's wordings: what may be fitted or calibrated with, and what is only ever measured with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

Half = Literal["train", "held"]


def train_half(wordings: Sequence[str], seed: int = 0) -> tuple[str, ...]:
    """The wordings that a fit and the calibration of stock layers may use."""
    order = _ordered(wordings, seed)
    return order[: len(order) // 2]


def held_half(wordings: Sequence[str], seed: int = 0) -> tuple[str, ...]:
    """The others, of which no fit may know: the larger half, so that there is always one."""
    order = _ordered(wordings, seed)
    return order[len(order) // 2 :]


def half_of(wordings: Sequence[str], half: Half, seed: int = 0) -> tuple[str, ...]:
    """Either half by its name; the same wordings and seed give the same halves, whatever the order."""
    return train_half(wordings, seed) if half == "train" else held_half(wordings, seed)


def _ordered(wordings: Sequence[str], seed: int) -> tuple[str, ...]:
    return tuple(sorted(wordings, key=lambda one: hashlib.sha256(f"{seed} {one}".encode()).digest()))
