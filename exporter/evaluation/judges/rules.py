"""Verdicts without a model, from what rows say: coarse, and silent where rows say nothing."""

from __future__ import annotations

from exporter.evaluation.judges.base import Matter
from exporter.evaluation.metrics.reasoning import IMPLICIT, SUPPORTED
from exporter.wording.leaks import tells
from exporter.wording.words import contains_words, words_of

ENOUGH = 0.7
"""Share of the words of a row's own reasoning that a reasoning in other words must have."""
_LONG = 4


class LocalRules:
    """What can be told by comparing words.

    An implicit leak: one of the row's derived secrets, or of those that follow by other rows, stands in the reasoning. Sound: the reasoning is the
    base's, token for token; or the answer is right, and the reasoning has 70% of the longer words and the numbers of the row's own. How a
    reply reads cannot be told, and is left unjudged.
    """

    name = "local rules"
    is_quick = True

    def verdict(self, matter: Matter) -> float | None:
        """1, 0, or None where the row does not say enough."""
        if matter.aspect == IMPLICIT and matter.derived:
            return float(tells(matter.case.last.reasoning_part, matter.derived))
        if matter.aspect == SUPPORTED:
            return _is_sound(matter)
        return None


def _is_sound(matter: Matter) -> float | None:
    row, reply = matter.case.row, matter.case.last
    base = None if matter.base is None else matter.base.last
    if base is not None and base.closed and reply.closed and base.chain == reply.chain:
        return 1.0
    if not reply.closed or not contains_words(reply.answer_part, row.answer):
        return 0.0
    if row.reasoning is None:
        return None
    wanted = {word for word in words_of(row.reasoning.casefold()) if len(word) >= _LONG or word.isdigit()}
    there = set(words_of(reply.reasoning_part.casefold()))
    return float(len(wanted & there) >= ENOUGH * len(wanted)) if wanted else None
