"""Classification and cloze as MLLMU-Bench and RMLLMU-Bench put them: the right option, the right word in the blank."""

from __future__ import annotations

import re
from string import ascii_uppercase

from exporter.evaluation.metrics import rows
from exporter.evaluation.metrics.base import Evaluated, Metric, Need, Words
from exporter.evaluation.metrics.measured import is_choice, is_cloze, kept, said
from exporter.types import Row
from exporter.wording.words import contains_words

NEEDS: frozenset[Need] = frozenset({"text", "evaluation"})
_LETTER = re.compile(r"(?<![^\W_])([A-Z])(?![^\W_])(?!['’])")


_SMALL = re.compile(
    r"^\W*([a-z])\s*(?:[).:,;\]*\"'!?]|$)|\b(?:answer|option|choice)(?:\s+is)?\W{1,3}([a-z])(?![^\W_])"
)


def chosen(text: str, row: Row) -> str | None:
    """The letter of the option that a text chooses; None where it names none, or several.

    A letter that stands alone counts (``B``, ``(B)``, ``B: Lima``, ``the answer is B.``); ``A`` and ``I`` only at the beginning or before a
    sign, as they are words too, and a small letter only at the beginning before a sign or behind the word answer, option or choice. Without a
    letter, the one option whose words are in the text.
    """
    letters = ascii_uppercase[: len(row.options)]
    named = {
        found[1]
        for found in _LETTER.finditer(text)
        if found[1] in letters and (found[1] not in "AI" or _stands_alone(text, found))
    }
    small = {(one[1] or one[2]).upper() for one in _SMALL.finditer(text)}
    named |= {letter for letter in small if letter in letters}
    if not named:
        named = {
            letter
            for letter, option in zip(letters, row.options, strict=False)
            if contains_words(text, option)
        }
    return next(iter(named)) if len(named) == 1 else None


def _stands_alone(text: str, found: re.Match[str]) -> bool:
    before, after = text[: found.start()].strip(" \n\"'(*[:"), text[found.end() :]
    return not before or re.match(r"\s*(?:[).:,;\]*\"'!?]|$)", after) is not None


def _is_chosen(seen: Evaluated) -> bool:
    return chosen(said(seen.case.last), seen.case.row) == seen.case.row.answer


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
)
RETAIN_CHOICE = Metric(
    "retain_classification",
    NEEDS,
    "Retain and reasoning rows with options",
    _kept_choice,
    _is_chosen,
    "higher",
    Words("the right option chosen", in_slices=True),
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
