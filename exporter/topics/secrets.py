"""Secrets of a topic's rows that have none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from exporter.topics.subjects import SMALL
from exporter.types import Row


def with_secrets(rows: Sequence[Row]) -> list[Row]:
    """Rows to forget without secrets get the telling words of their answers; the others stay as they are.

    A telling word is a name, a number or a longer word that neither the question nor any row to keep has. An answer without one is
    left whole.
    """
    common = {word for row in rows if row.role != "forget" for word in _words(f"{row.question} {row.answer}")}
    return [
        row if row.role != "forget" or row.secrets else replace(row, secrets=telling_words(row, common))
        for row in rows
    ]


def telling_words(row: Row, common: set[str]) -> tuple[str, ...]:
    """The informative words of an answer; ``common`` are the uninformative ones, in lower case."""
    plain = common | SMALL | set(_words(row.question))
    words = dict.fromkeys(re.findall(r"[^\W_]+(?:[-'’.,][^\W_]+)*", row.answer))
    new = [word for word in words if word.lower() not in plain]
    names = [word for word in new if word[:1].isupper() or word[:1].isdigit()]
    return tuple(names or [word for word in new if len(word) > 5])


def _words(text: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[^\W_]+(?:[-'’.,][^\W_]+)*", text)]
