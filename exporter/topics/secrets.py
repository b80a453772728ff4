"""Secrets of a topic's rows that have none."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from textwrap import shorten

from exporter.errors import InputErrors
from exporter.topics.subjects import SMALL
from exporter.topics.uncased import WORD, new_words, script
from exporter.types import Row

FREQUENT = 0.25
"""Of the rows to keep, how many have a word that any answer may have."""


def with_secrets(rows: Sequence[Row], source: str = "rows") -> list[Row]:
    """Rows to forget without secrets get the telling words of their answers; the others stay as they are.

    A telling word is a name, a number or a longer word that neither the question nor any row to keep has. An answer without one is
    left whole.

    Args:
        source: what the rows are read from, for the message.

    Raises:
        InputErrors: rows to forget in whose answers no capital letters show the names, and their telling words cannot be told.
    """
    kept = [set(_words(f"{row.question} {row.answer}")) for row in rows if row.role != "forget"]
    common = Counter(word for words in kept for word in words)
    found, unsure = [], []
    for row in rows:
        secrets = telling_words(row, common, len(kept)) if _lacks_secrets(row) else row.secrets
        found.append(row if secrets is None else replace(row, secrets=secrets))
        if secrets is None:
            unsure.append(
                f"row {row.id!r} has no secrets, and which words of its answer give it away cannot be told without capital letters or "
                f"spaces: {shorten(row.answer, 60)!r}; add them to the row as `secrets`"
            )
    if unsure:
        raise InputErrors(source, unsure)
    return found


def telling_words(row: Row, common: Mapping[str, int], kept: int) -> tuple[str, ...] | None:
    """The informative words of an answer; None where the answer's script does not show which they are.

    Args:
        common: words of rows to keep, in lower case, with the number of rows that have each.
        kept: rows to keep.
    """
    if not _shows_names(row.answer):
        often = max(2.0, FREQUENT * kept)
        return new_words(row.question, row.answer, {word for word, count in common.items() if count >= often})
    plain = set(common) | SMALL | set(_words(row.question))
    words = dict.fromkeys(WORD.findall(unicodedata.normalize("NFC", row.answer)))
    new = [word for word in words if word.lower() not in plain]
    names = [word for word in new if word[:1].isupper() or word[:1].isdigit()]
    return tuple(names or [word for word in new if len(word) > 5])


def _lacks_secrets(row: Row) -> bool:
    return row.role == "forget" and not row.secrets


def _shows_names(answer: str) -> bool:
    """Whether names in an answer have capital letters: it has one, and no letter that cannot be one; or it has no letters at all."""
    letters = [letter for letter in answer if unicodedata.category(letter) in ("Lu", "Ll", "Lt", "Lo")]
    cased = all(
        unicodedata.category(letter) != "Lo" or script(letter) in ("LATIN", "FEMININE", "MASCULINE")
        for letter in letters
    )
    return not letters or (cased and any(letter.isupper() for letter in letters))


def _words(text: str) -> list[str]:
    return [word.lower() for word in WORD.findall(unicodedata.normalize("NFC", text))]
