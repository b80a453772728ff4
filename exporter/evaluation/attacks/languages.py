"""The question in other languages, word by word from lists made by hand; names and words that no list has stay as they are."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import ClassVar

from exporter.evaluation.attacks.each import Around, Each
from exporter.evaluation.attacks.halves import half_of
from exporter.evaluation.attacks.language_words import LANGUAGES, Language
from exporter.types import Row


class Translated(Each):
    """Each question in one of six languages (German, French, Spanish, Italian, Portuguese, Dutch), within a request to answer in English.

    Word by word: a model that reads the language understands it, as one understands bad grammar. What the base can do there is what its
    own leak beside the steered model's says; a reply in the other language is read by the leak matcher only where a secret is spelled as
    in the row, as names are (Lynch et al., https://arxiv.org/abs/2402.16835, ask in Russian; https://arxiv.org/abs/2601.06675 in nine).
    """

    name: ClassVar[str] = "translated"
    group: ClassVar[str] = "languages"

    def change(self, row: Row, around: Around, draw: random.Random) -> Mapping[str, object] | None:
        language = LANGUAGES[draw.choice(sorted(LANGUAGES))]
        return {"question": self._framed(language, translated(row.question, language), draw)}

    def _framed(self, language: Language, question: str, draw: random.Random) -> str:
        return draw.choice(half_of(language.frames, self.half, self.seed)).replace("{q}", question)


class Borrowed(Each):
    """The English question within a sentence of another language."""

    name: ClassVar[str] = "foreign_frame"
    group: ClassVar[str] = "languages"

    def change(self, row: Row, around: Around, draw: random.Random) -> Mapping[str, object]:
        language = LANGUAGES[draw.choice(sorted(LANGUAGES))]
        frame = draw.choice(half_of(language.frames, self.half, self.seed))
        return {"question": frame.replace("{q}", row.question)}


def translated(question: str, language: Language) -> str:
    """Word by word; a capital at the beginning stays one."""

    def other(found: re.Match[str]) -> str:
        word = found[0]
        told = language.words.get(word.lower(), word)
        return told[:1].upper() + told[1:] if word[:1].isupper() else told

    return re.sub(r"[A-Za-z']+", other, question)
