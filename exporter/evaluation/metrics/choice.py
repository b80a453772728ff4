"""Classification and cloze as MLLMU-Bench and RMLLMU-Bench put them: the right option, the right word in the blank."""

from __future__ import annotations

from exporter.evaluation.metrics import rows
from exporter.evaluation.metrics.base import Evaluated, Metric, Need, Words
from exporter.evaluation.metrics.measured import is_choice, is_cloze, kept, said
from exporter.evaluation.metrics.named_options import named_options
from exporter.types import Row
from exporter.wording.words import contains_words

NEEDS: frozenset[Need] = frozenset({"text", "evaluation"})


def chosen(text: str, row: Row) -> str | None:
    """The letter of the option that a text chooses; None where it names none, or several (:func:`named_options`)."""
    named = named_options(text, row)
    return next(iter(named)) if len(named) == 1 else None


def _is_chosen(seen: Evaluated) -> bool | None:
    """None where the right option is one of several that the reply names: which one it means cannot be told."""
    row = seen.case.row
    named = named_options(said(seen.case.last), row)
    return None if len(named) > 1 and row.answer in named else row.answer in named


def _is_filled(seen: Evaluated) -> bool:
    return contains_words(said(seen.case.last), seen.case.row.answer)


def _forget_choice(seen: Evaluated) -> bool:
    return rows.to_forget(seen) and is_choice(seen)


def _kept_choice(seen: Evaluated) -> bool:
    return kept(seen) and is_choice(seen)


def _forget_cloze(seen: Evaluated) -> bool:
    return rows.to_forget(seen) and is_cloze(seen)


def _kept_cloze(seen: Evaluated) -> bool:
    return kept(seen) and is_cloze(seen)


FORGET_CHOICE = Metric(
    "forget_classification",
    NEEDS,
    "Forget rows with options",
    _forget_choice,
    _is_chosen,
    "lower",
    Words("the right option chosen", in_slices=True),
    may_be_open=True,
)
RETAIN_CHOICE = Metric(
    "retain_classification",
    NEEDS,
    "Retain and reasoning rows with options",
    _kept_choice,
    _is_chosen,
    "higher",
    Words("the right option chosen", in_slices=True),
    may_be_open=True,
)
FORGET_CLOZE = Metric(
    "forget_cloze",
    NEEDS,
    "Forget rows with a blank",
    _forget_cloze,
    _is_filled,
    "lower",
    Words("the blank filled rightly", in_slices=True),
)
RETAIN_CLOZE = Metric(
    "retain_cloze",
    NEEDS,
    "Retain and reasoning rows with a blank",
    _kept_cloze,
    _is_filled,
    "higher",
    Words("the blank filled rightly", in_slices=True),
)
