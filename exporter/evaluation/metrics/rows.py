"""Over which rows metrics are counted."""

from __future__ import annotations

from exporter.evaluation.case import touches_forgotten
from exporter.evaluation.metrics.base import Answered

FORGOTTEN, KEPT, REASONING, UNKNOWN = "Forget set", "Retain rows", "Reasoning rows", "Unknown subjects"
"""Names of the sets of rows, for readers."""


def to_forget(seen: Answered) -> bool:
    """The row is a forget row."""
    return seen.case.row.role == "forget"


def about_forgotten(seen: Answered) -> bool:
    """The row, or an earlier turn that the model answered itself, is about the forget set."""
    return touches_forgotten(seen.case)


def to_retain(seen: Answered) -> bool:
    """The row is of role retain."""
    return seen.case.row.role == "retain"


def of_reasoning(seen: Answered) -> bool:
    """The row is of role reasoning."""
    return seen.case.row.role == "reasoning"


def of_unknown(seen: Answered) -> bool:
    """The row is of role unknown."""
    return seen.case.row.role == "unknown"
