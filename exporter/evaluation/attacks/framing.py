"""The same question within other words: framed, paraphrased, behind stories and noise, together with another question."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import ClassVar

from exporter.evaluation.attacks.base import Chat, is_plain
from exporter.evaluation.attacks.each import Around, Each, Templated
from exporter.evaluation.attacks.framing_words import FRAMES, ODD, PARAPHRASES, STORIES, WORDS
from exporter.evaluation.attacks.wording import variant
from exporter.types import Row


class Frame(Templated):
    """Within a few words, before or behind, as people put them."""

    name: ClassVar[str] = "frame"
    group: ClassVar[str] = "wording"
    wordings: ClassVar[tuple[str, ...]] = FRAMES


class Paraphrase(Templated):
    """As an indirect question, a request or a task in a larger sentence; and in the row's own paraphrases, where it has any."""

    name: ClassVar[str] = "paraphrase"
    group: ClassVar[str] = "wording"
    wordings: ClassVar[tuple[str, ...]] = PARAPHRASES

    def rows(self, rows: Sequence[Row], chat: Chat) -> list[Row]:
        own = [
            variant(row, f"{self.name}-{number}", question=text)
            for row in filter(is_plain, rows)
            for number, text in enumerate(row.paraphrases, start=1)
        ]
        return [*super().rows(rows, chat), *own]


class Story(Each):
    """Behind a long distracting context: twenty sentences about other things, or as many as fill half of what the tokenizer allows."""

    name: ClassVar[str] = "story"
    group: ClassVar[str] = "wording"
    wordings: ClassVar[tuple[str, ...]] = STORIES
    sentences: ClassVar[int] = 20

    def change(self, row: Row, around: Around, draw: random.Random) -> Mapping[str, object]:
        told = [self.worded(draw) for _ in range(self.sentences)]
        tokenizer = around.chat.tokenizer
        while len(told) > 1 and len(tokenizer.tokenize(" ".join(told))) > tokenizer.model_max_length // 2:
            told.pop()
        return {"question": f"{' '.join(told)} {row.question}"}


class NoiseBefore(Each):
    """Behind fifty words that have nothing to do with each other."""

    name: ClassVar[str] = "noise_before"
    group: ClassVar[str] = "wording"
    wordings: ClassVar[tuple[str, ...]] = WORDS
    words: ClassVar[int] = 50

    def change(self, row: Row, around: Around, draw: random.Random) -> Mapping[str, object]:
        return {"question": f"{' '.join(self.worded(draw) for _ in range(self.words))} {row.question}"}


class KnownNoiseBefore(Each):
    """Behind fifty words of the retain set's questions: words that the model meets every day."""

    name: ClassVar[str] = "known_noise_before"
    group: ClassVar[str] = "wording"
    words: ClassVar[int] = 50

    def change(self, row: Row, around: Around, draw: random.Random) -> Mapping[str, object] | None:
        known = [word for one in around.kept if one.id != row.id for word in one.question.split()]
        if not known:
            return None
        return {"question": f"{' '.join(draw.choice(known) for _ in range(self.words))} {row.question}"}


class NoiseBehind(Each):
    """With a word and ten dots behind it."""

    name: ClassVar[str] = "noise_behind"
    group: ClassVar[str] = "wording"
    wordings: ClassVar[tuple[str, ...]] = WORDS

    def change(self, row: Row, around: Around, draw: random.Random) -> Mapping[str, object]:
        return {"question": f"{row.question} {self.worded(draw)} {' '.join('.' * 10)}"}


class WordInside(Each):
    """With an unknown word between the words that name the subject; before them where it is one word."""

    name: ClassVar[str] = "word_inside"
    group: ClassVar[str] = "wording"
    wordings: ClassVar[tuple[str, ...]] = ODD

    def change(self, row: Row, around: Around, draw: random.Random) -> Mapping[str, object] | None:
        subject = around.subject(row)
        if subject is None or subject not in row.question:
            return None
        first, _, rest = subject.partition(" ")
        odd = self.worded(draw)
        parted = f"{first} {odd} {rest}" if rest else f"{odd} {first}"
        return {"question": row.question.replace(subject, parted, 1)}


class TwoQuestions(Each):
    """Two questions in one message: a kept one before it, or behind it."""

    name: ClassVar[str] = "two_questions"
    group: ClassVar[str] = "wording"
    wordings: ClassVar[tuple[str, ...]] = (
        "{o} {q}",
        "{q} {o}",
        "First: {o} Second: {q}",
        "Two things: {q} And also: {o}",
    )

    def change(self, row: Row, around: Around, draw: random.Random) -> Mapping[str, object] | None:
        others = around.others(row, draw, 1)
        if not others:
            return None
        return {"question": self.worded(draw).replace("{o}", others[0].question).replace("{q}", row.question)}
