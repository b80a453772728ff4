"""Histograms of gate scores as inline SVG: one strip per kind of rows over a common axis, with the threshold and the side that fires.

Shapes are SVG and stretch with the page; words and numbers stand beside them in HTML, so that they stay readable on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

BINS = 48
_WIDTH, _HEIGHT = 1000.0, 100.0
_MARGIN = 0.04
"""Of the range of scores, left free at either end."""


@dataclass(frozen=True)
class Series:
    """Scores of one kind of rows.

    Attributes:
        tone: whether these rows are to be forgotten, kept, or neither.
    """

    name: str
    tone: Literal["forgotten", "kept", "other"]
    scores: tuple[float, ...]

    @property
    def finite(self) -> tuple[float, ...]:
        return tuple(score for score in self.scores if math.isfinite(score))


@dataclass(frozen=True)
class GateView:
    """One gate: where it reads, when it fires, and the scores of the rows.

    Attributes:
        fires: ``above`` or ``below`` the threshold.
    """

    name: str
    layer: int
    threshold: float
    fires: str
    series: tuple[Series, ...]

    @classmethod
    def of(cls, gate: Mapping[str, object], series: Sequence[Series]) -> GateView:
        """From a gate of a steering section."""
        return cls(
            str(gate["name"]),
            int(str(gate["layer"])),
            float(str(gate["threshold"])),
            str(gate["fires"]),
            tuple(series),
        )

    def is_on(self, score: float) -> bool:
        """Whether the gate fires at a score; one that is no number fires."""
        return not (score <= self.threshold if self.fires == "above" else score >= self.threshold)

    def fired(self, series: Series) -> int:
        """How many rows of a series the gate fires on."""
        return sum(map(self.is_on, series.scores))

    @property
    def edges(self) -> tuple[float, float]:
        """The ends of the axis: every finite score and the threshold lie between them."""
        values = [score for one in self.series for score in one.finite] + [self.threshold]
        low, high = min(values), max(values)
        free = _MARGIN * (high - low) or 1.0
        return low - free, high + free

    def place(self, score: float) -> float:
        """Where a score stands on the axis, in percent of its length."""
        low, high = self.edges
        return 100 * (score - low) / (high - low)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Round numbers along the axis, by their places in percent."""
        low, high = self.edges
        step = _round_step((high - low) / 5)  # up to half of the axis, so that two stand on it
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        first = math.ceil(low / step)
        values = [step * number for number in range(first, math.floor(high / step) + 1)]
        return [(self.place(value), f"{value + 0.0:.{digits}f}".replace("-", "−")) for value in values]

    @property
    def firing(self) -> tuple[float, float]:
        """Left end and width of the side that fires, in percent."""
        place = self.place(self.threshold)
        return (place, 100 - place) if self.fires == "above" else (0.0, place)

    def bars(self, series: Series) -> list[tuple[float, float, float, float]]:
        """x, y, width and height of each bar in a box of 1000 by 100; the tallest fills the box."""
        counts = [0] * BINS
        for score in series.finite:
            counts[min(BINS - 1, int(self.place(score) / 100 * BINS))] += 1
        tallest = max(counts) or 1
        width = _WIDTH / BINS
        tall = [max(3.0, _HEIGHT * count / tallest) for count in counts]
        return [
            (place * width + 0.06 * width, _HEIGHT - tall[place], 0.88 * width, tall[place])
            for place, count in enumerate(counts)
            if count
        ]


def _round_step(step: float) -> float:
    """The next of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))
