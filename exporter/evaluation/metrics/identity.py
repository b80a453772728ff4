"""Whether a reply has the very tokens of another model's: the base's, or the checkpoint's where another target is held to it."""

from __future__ import annotations

from exporter.evaluation.metrics import rows
from exporter.evaluation.metrics.base import Answered, Metric, Words


def _same_reply(seen: Answered) -> bool:
    return seen.case.last.generation.tokens == seen.other.last.generation.tokens


def _same_chain(seen: Answered) -> bool:
    return seen.case.last.chain == seen.other.last.chain


RETAIN = Metric(
    "retain_identical",
    frozenset({"tokens", "base"}),
    rows.KEPT,
    rows.to_retain,
    _same_reply,
    "higher",
    Words(
        "the base's reply, token for token",
        rank=6,
        headline="gives the base's reply, token for token, to retain questions",
        sentence="On {questions} of the retain rows, the reply is the base's, token for token, in {share}.",
    ),
)
CHAINS = Metric(
    "cot_exact_match",
    frozenset({"tokens", "base"}),
    rows.REASONING,
    rows.of_reasoning,
    _same_chain,
    "higher",
    Words(
        "the base's chain of thought, token for token",
        rank=8,
        headline="gives the base's chain of thought on reasoning questions",
        sentence="On {questions} of the reasoning rows, the chain of thought is the base's, token for token, in {share}.",
    ),
)
SAME_TOKENS = Metric(
    "same_tokens",
    frozenset({"tokens", "checkpoint"}),
    "All",
    lambda _: True,
    _same_reply,
    "higher",
    Words("the checkpoint's reply, token for token", rank=12),
)
