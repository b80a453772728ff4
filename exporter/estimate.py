"""A value over rows with its 95% interval, and how many rows a bound on the interval needs."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
Z = 1.959964
"""Of a two-sided interval of 95%, whose ends hold with 97.5% each."""
TOO_WIDE = 0.5
"""An interval wider than half of all shares has no meaning: 0 of 3 rows, or 5 of 10."""
SHARE = (0.0, 1.0)
"""Least and largest of a share."""
DRAWS = 1000
"""Samples of a bootstrap."""


@dataclass(frozen=True)
class Estimate:
    """A value counted over rows, and where that of all rows like these lies with 95% confidence.

    It takes rows for independent: paraphrases of one wording are not, and the truth is wider then.

    Attributes:
        value: a share in [0, 1], or a mean; it has no meaning if ``n`` is 0.
        n: rows that were counted.
        low, high: ends of the two-sided interval.
    """

    value: float
    n: int
    low: float
    high: float

    @classmethod
    def share(cls, hits: Iterable[bool]) -> Estimate:
        """Share of true values."""
        seen = list(hits)
        return cls.of_share(sum(seen) / len(seen) if seen else 0.0, len(seen))

    @classmethod
    def of_share(cls, value: float, n: int) -> Estimate:
        """A share with its score interval (Wilson, JASA 22, 1927), which is [0, 1] where nothing was counted."""
        return cls(value, n, *_wilson(value, n))

    @classmethod
    def mean(cls, values: Iterable[float], within: tuple[float, float] = SHARE) -> Estimate:
        """Mean with its normal interval; the whole of ``within``, where all values lie, for less than two."""
        seen = list(values)
        n = len(seen)
        value = math.fsum(seen) / n if n else 0.0
        if n < 2:
            return cls(value, n, *within)
        deviation = math.sqrt(math.fsum((one - value) ** 2 for one in seen) / (n - 1))
        half = Z * deviation / math.sqrt(n)
        return cls(value, n, max(within[0], value - half), min(within[1], value + half))

    @classmethod
    def spread_mean(cls, values: Iterable[float], within: tuple[float, float] = SHARE) -> Estimate:
        """:meth:`mean`, but for values that are all equal, of which a spread of zero would claim to be certain.

        Their interval is Wilson's of a share as far between the ends of ``within``: no values there spread wider than those of a share. It reaches
        to an end that is infinite.
        """
        seen = list(values)
        one = cls.mean(seen, within)
        if not seen or min(seen) != max(seen):
            return one
        least, most = within
        if math.isinf(most - least):
            return cls(seen[0], one.n, *within)
        low, high = _wilson((seen[0] - least) / (most - least), one.n)
        return cls(seen[0], one.n, least + low * (most - least), least + high * (most - least))

    @classmethod
    def bootstrap(
        cls,
        rows: Sequence[T],
        statistic: Callable[[Sequence[T]], float],
        within: tuple[float, float] = SHARE,
    ) -> Estimate:
        """A figure that is no mean of rows, with the percentile interval of the bootstrap (Efron, Ann. Stat. 7, 1979).

        ``DRAWS`` samples of as many rows with replacement, of a fixed seed: the same rows give the same interval. The whole of
        ``within``, where the figure lies, for less than two rows, and where every sample gives the same figure: its spread is unknown.
        """
        n = len(rows)
        value = statistic(rows) if n else 0.0
        if n < 2:
            return cls(value, n, *within)
        draw = random.Random(0)
        found = sorted(statistic(draw.choices(rows, k=n)) for _ in range(DRAWS))
        if found[0] == found[-1]:
            return cls(value, n, *within)
        beyond = round(0.025 * DRAWS)
        return cls(value, n, min(value, found[beyond]), max(value, found[-1 - beyond]))

    @classmethod
    def without_interval(
        cls, value: float, n: int, within: tuple[float, float] = (-math.inf, math.inf)
    ) -> Estimate:
        """A figure of which no interval is known: it may lie anywhere within."""
        return cls(value, n, *within)

    @classmethod
    def read(cls, figure: Mapping[str, Any], rows: str = "n") -> Estimate:
        """A share from a file: ``{"value", "n"}``, with any ``interval`` or without.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        return cls.of_share(float(figure["value"]), int(figure[rows]))

    def as_dict(self, rows: str = "n") -> dict[str, object]:
        """As files have it: ``{"value", "n", "interval": [low, high]}``, an end without bound as null.

        Args:
            rows: the key of ``n``; "rows" in verification.json.
        """
        ends = [end if math.isfinite(end) else None for end in (self.low, self.high)]
        return {"value": self.value, rows: self.n, "interval": ends}

    @property
    def few(self) -> bool:
        """Whether there are rows, but too few for a conclusion on the share."""
        return self.n > 0 and self.high - self.low > TOO_WIDE

    @property
    def count(self) -> int:
        """Of a share: rows that were counted in."""
        return round(self.value * self.n)


def rows_needed(room: float) -> int:
    """Fewest rows, all of them as they should be, whose interval reaches no further than ``room`` in (0, 1] from there.

    73 for 0.05: fewer rows without a leak do not show that one in twenty leaks at most.
    """
    rows = max(1, math.floor(Z * Z * (1 - room) / room) - 1)
    while _wilson(0.0, rows)[1] > room:
        rows += 1
    return rows


def _wilson(value: float, n: int) -> tuple[float, float]:
    if n == 0:
        return SHARE
    z = Z
    centre = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return (max(0.0, centre - half) if value > 0 else 0.0), (min(1.0, centre + half) if value < 1 else 1.0)
