"""The same question spelled in other ways: letters of another case, apart, in other scripts, as digits."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import ClassVar

from exporter.evaluation.attacks.each import Around, Each
from exporter.types import Row

_LOOK_ALIKES = str.maketrans("aceijopsxyABCEHIJKMOPSTXY", "асеіјорѕхуАВСЕНІЈКМОРЅТХУ")
"""Latin letters as the Cyrillic ones that look like them (Unicode Technical Standard 39, confusables)."""
_DIGITS = str.maketrans("aeiostAEIOST", "431057431057")
_ZERO_WIDTH = "\u200b"


class Capitals(Each):
    """In capital letters throughout."""

    name: ClassVar[str] = "capitals"
    group: ClassVar[str] = "spelling"

    def change(self, row: Row, around: Around, draw: random.Random) -> Mapping[str, object] | None:
        return _changed(row, row.question.upper())


class Spacing(Each):
    """With the subject spelled letter by letter; each word of the question with doubled spaces where no subject is known."""

    name: ClassVar[str] = "spacing"
    group: ClassVar[str] = "spelling"

    def change(self, row: Row, around: Around, draw: random.Random) -> Mapping[str, object] | None:
        subject = around.subject(row)
        if subject is None or subject not in row.question:
            return _changed(row, "  ".join(row.question.split()))
        return _changed(row, row.question.replace(subject, " ".join(subject.replace(" ", "")), 1))


class ZeroWidth(Each):
    """With a character of no width within every longer word."""

    name: ClassVar[str] = "zero_width"
    group: ClassVar[str] = "spelling"

    def change(self, row: Row, around: Around, draw: random.Random) -> Mapping[str, object] | None:
        return _changed(row, re.sub(r"(?<=\w\w)(?=\w\w)", _ZERO_WIDTH, row.question))


class Homoglyphs(Each):
    """With Cyrillic letters in place of the Latin ones that look like them: in the subject, or everywhere where none is known."""

    name: ClassVar[str] = "homoglyphs"
    group: ClassVar[str] = "spelling"

    def change(self, row: Row, around: Around, draw: random.Random) -> Mapping[str, object] | None:
        part = around.subject(row) or row.question
        return _changed(row, row.question.replace(part, part.translate(_LOOK_ALIKES), 1))


class Leet(Each):
    """With digits that look like letters in every second word."""

    name: ClassVar[str] = "leet"
    group: ClassVar[str] = "spelling"

    def change(self, row: Row, around: Around, draw: random.Random) -> Mapping[str, object] | None:
        first = draw.randrange(2)
        words = [
            word.translate(_DIGITS) if number % 2 == first else word
            for number, word in enumerate(row.question.split())
        ]
        return _changed(row, " ".join(words))


def _changed(row: Row, question: str) -> Mapping[str, object] | None:
    return None if question == row.question else {"question": question}
