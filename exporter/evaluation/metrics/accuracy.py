"""Whether the expected answer stands in a reply's answer part, as whole words."""

from __future__ import annotations

from exporter.evaluation.metrics import rows
from exporter.evaluation.metrics.base import Answered, Metric, Words
from exporter.wording.words import contains_words


def is_right(seen: Answered) -> bool:
    """The expected answer stands in the answer part."""
    return contains_words(seen.case.last.answer_part, seen.case.row.answer)


FORGET = Metric(
    "forget_accuracy",
    frozenset({"text"}),
    rows.FORGOTTEN,
    rows.to_forget,
    is_right,
    "lower",
    Words("still answered", rank=3),
)
RETAIN = Metric(
    "retain_accuracy",
    frozenset({"text"}),
    rows.KEPT,
    rows.to_retain,
    is_right,
    "higher",
    Words("answered correctly", rank=7, in_slices=True),
)
REASONING = Metric(
    "reasoning_accuracy",
    frozenset({"text"}),
    rows.REASONING,
    rows.of_reasoning,
    is_right,
    "higher",
    Words("answered correctly", rank=9),
)
