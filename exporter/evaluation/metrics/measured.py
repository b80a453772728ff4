"""Rows over which the metrics of an evaluation are counted, and the parts of a reply that they read."""

from __future__ import annotations

import re
from collections.abc import Sequence

from exporter.evaluation.case import Reply
from exporter.evaluation.metrics import rows
from exporter.evaluation.metrics.base import Evaluated

HOLDOUT = "holdout"
"""The slice of rows like the forget set that no model was trained on."""
PARAPHRASE = "paraphrase"
"""The slice of test rows asked in the other words that they bring themselves."""
_BLANK = re.compile(r"\[blank\]|__+", re.IGNORECASE)


def kept(seen: Evaluated) -> bool:
    """The row is to stay as it is: of role retain or reasoning."""
    return rows.to_retain(seen) or rows.of_reasoning(seen)


def is_choice(seen: Evaluated) -> bool:
    """The row has options to choose from."""
    return bool(seen.case.row.options)


def is_cloze(seen: Evaluated) -> bool:
    """The question has a blank to fill, ``[Blank]`` or ``__``."""
    return not is_choice(seen) and _BLANK.search(seen.case.row.question) is not None


def is_open(seen: Evaluated) -> bool:
    """The question is answered in a sentence of the model's own."""
    return not is_choice(seen) and not is_cloze(seen)


def said(reply: Reply) -> str:
    """The answer, or everything of a reply whose reasoning does not end: what is told there is told."""
    return reply.generation.text if reply.answer is None else reply.answer


def in_order(seen: Sequence[Evaluated]) -> list[Evaluated]:
    """Rows by their ids, so that a bootstrap draws the same samples in whatever order they were asked."""
    return sorted(seen, key=lambda one: one.case.row.id)


def forced(seen: Evaluated) -> bool:
    """The model was forced to the row's answers."""
    return seen.passes is not None
