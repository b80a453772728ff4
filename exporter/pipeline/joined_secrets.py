"""Secrets that look like several in one text: such a text is one secret, and a reply with one part of it would not count as a leak."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from exporter.data.cells import is_printed
from exporter.types import Row
from exporter.wording.leaks import tells
from exporter.wording.words import normalise

_STRONG = re.compile(r"\s*[;|\n\u061b\uff1b]\s*|\s+/\s+")
"""What hardly ever stands within a secret."""
_TIGHT = re.compile(r"(?<=[^\W\d_]),(?=[^\W\d_])")
"""A comma without a space, as no sentence has it."""
_COMMA = re.compile(r"\s*[,\u060c\u3001\uff0c]\s*")
"""What stands in names, dates and titles too."""


def joined_secrets(rows: Iterable[Row]) -> Iterator[tuple[str, str]]:
    """(id of the row, the secret) of secrets that are probably several.

    One that stands in the answer as it is written is one text, whatever signs it has. Of the others those count that have a
    semicolon, a bar, a slash between spaces, a line break, a comma without a space, or brackets and quotes; and those with another comma
    where the answer has a part alone, and not the whole. Parts with digits do not count there: they are dates.
    """
    for row in rows:
        for secret in row.secrets:
            if not _as_written(secret, row.answer) and _is_joined(secret, row.answer):
                yield row.id, secret


def _is_joined(secret: str, answer: str) -> bool:
    if is_printed(secret) or len(_parts(_STRONG, secret)) > 1 or _of_words(_parts(_TIGHT, secret)):
        return True
    parts = _parts(_COMMA, secret)
    return _of_words(parts) and not tells(answer, (secret,)) and any(tells(answer, (part,)) for part in parts)


def _parts(sign: re.Pattern[str], secret: str) -> list[str]:
    return [part for part in sign.split(secret) if any(letter.isalnum() for letter in part)]


def _of_words(parts: list[str]) -> bool:
    return len(parts) > 1 and not any(letter.isdigit() for part in parts for letter in part)


def _as_written(secret: str, answer: str) -> bool:
    """Whether the answer has the secret sign by sign, but for case, spaces around signs and stops at its ends."""
    wanted, found = (re.sub(r"\s*([;|/])\s*", r"\1", normalise(text).casefold()) for text in (secret, answer))
    return wanted.strip(" .!?;|/,") in found
