"""Names of the version before, read with a warning in this one and refused in the next."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")

ROW_KEYS = {"group": "eval_slice", "key": "template_id"}
METRICS = {"chains_identical": "cot_exact_match"}
REPORT_SETTINGS = {"groups": "eval_slices"}
"""Keys of a recipe's section ``report``."""
UNLEARNING = {"groups": "eval_slices"}
"""Keys of the section ``unlearning`` of verification.json."""


def with_current_names(found: Mapping[str, T], renamed: Mapping[str, str], place: str) -> dict[str, T]:
    """The same values under today's names; a warning names each old one.

    Args:
        place: where the names stand, for the warning.

    Raises:
        ValueError: a value stands under both names.
    """
    for old, new in renamed.items():
        if old in found and new in found:
            raise ValueError(f"both {old!r} and {new!r}, its current name, are given; remove {old!r}")
    for old in (name for name in found if name in renamed):
        warnings.warn(
            f"{place}: {old!r} was renamed to {renamed[old]!r}; this is the last version that reads the old name",
            FutureWarning,
            stacklevel=2,
        )
    return {renamed.get(name, name): value for name, value in found.items()}
