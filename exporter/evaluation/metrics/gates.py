"""Whether a gate was on, of models that have any."""

from __future__ import annotations

from exporter.evaluation.metrics import rows
from exporter.evaluation.metrics.base import Answered, Metric, Words


def _gated_about_forgotten(seen: Answered) -> bool:
    return seen.case.gated and rows.about_forgotten(seen)


def _gated_to_keep(seen: Answered) -> bool:
    return seen.case.gated and (rows.to_retain(seen) or rows.of_reasoning(seen))


def _in_any_turn(seen: Answered) -> bool:
    return any(reply.fired for reply in seen.case.replies)


def _in_the_last(seen: Answered) -> bool:
    return seen.case.last.fired


TRUE_POSITIVE = Metric(
    "gate_true_positive",
    frozenset({"gates"}),
    rows.FORGOTTEN,
    _gated_about_forgotten,
    _in_any_turn,
    "higher",
    Words("a gate fires", rank=5),
)
FALSE_POSITIVE = Metric(
    "gate_false_positive",
    frozenset({"gates"}),
    "Retain set",
    _gated_to_keep,
    _in_the_last,
    "lower",
    Words("a gate fires", rank=10),
)
