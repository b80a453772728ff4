"""What a share of so many rows can say: its 95% interval, and how many rows a bound on that needs."""

from __future__ import annotations

import math

from exporter.types import Measure

Z = 1.959964
"""Of a two-sided interval of 95%, whose ends hold with 97.5% each."""
TOO_WIDE = 0.5
"""An interval that leaves more than half of all shares possible says nothing: of 3 rows without a leak, and of 10 that fall half and half."""


def wilson(measure: Measure, z: float = Z) -> tuple[float, float]:
    """Two-sided 95% score interval of a fraction (Wilson, JASA 22, 1927); (0, 1) where nothing was counted.

    It takes rows for independent: paraphrases of one wording are not, and the truth is wider then.
    """
    value, n = measure
    if n == 0:
        return 0.0, 1.0
    centre = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return (max(0.0, centre - half) if value > 0 else 0.0), (min(1.0, centre + half) if value < 1 else 1.0)


def too_few(low: float, high: float) -> bool:
    """Whether an interval is too wide to tell anything."""
    return high - low > TOO_WIDE


def rows_needed(room: float) -> int:
    """Fewest rows, all of them as they should be, whose interval reaches no further than ``room`` in (0, 1] from there.

    73 for 0.05: fewer rows without a leak do not show that one in twenty leaks at most.
    """
    rows = max(1, math.floor(Z * Z * (1 - room) / room) - 1)
    while wilson(Measure(0.0, rows))[1] > room:
        rows += 1
    return rows
