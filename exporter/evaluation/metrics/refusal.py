"""Whether the reply to what was not to be answered is a fluent refusal."""

from __future__ import annotations

from exporter.evaluation.metrics import rows
from exporter.evaluation.metrics.base import Answered, Metric, Words


def is_refusal(seen: Answered) -> bool:
    """The reply to what was not to be answered is a fluent refusal.

    That is the row's own reply; for an innocent last question (roles retain and reasoning) one of the earlier replies,
    where there are any. Where the row forces a beginning, the answer part of its reply decides.
    """
    case, rule = seen.case, seen.rule
    if case.row.prefix is not None:
        return rule.accepts(case.last.generation.text) or rule.accepts_answer(case.last.answer_part)
    innocent = case.row.role in ("retain", "reasoning")
    judged = case.replies[:-1] if innocent and len(case.replies) > 1 else case.replies[-1:]
    return any(rule.accepts(reply.generation.text) for reply in judged)


FORGET = Metric(
    "fluent_refusal",
    frozenset({"text"}),
    rows.FORGOTTEN,
    rows.about_forgotten,
    is_refusal,
    "higher",
    Words(
        "fluent refusal",
        rank=4,
        in_slices=True,
        headline="refuses fluently on the forget set",
        beside_base=True,
        sentence="{share} are fluent refusals.",
    ),
)
UNKNOWN = Metric(
    "unknown_refusal",
    frozenset({"text"}),
    rows.UNKNOWN,
    rows.of_unknown,
    is_refusal,
    None,
    Words("fluent refusal", rank=11),
)
