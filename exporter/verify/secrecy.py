"""What a published text must not reveal of the forget rows, and whether it does.

A publication has its own description of the forget set. Otherwise it must contain nothing of a forget row: no question, no answer, no
secret, no picture, and no name, which no row marks as one. So names are found by contrast: a word of the forget rows that the
retain rows do not commonly use could be one, and a text that has such a word is not shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.digests import digest_of_file
from exporter.types import Row
from exporter.wording.leaks import parts_told, tells, words_read
from exporter.wording.words import normalise, words

COMMON = 0.1
"""A word is common if this share of the retain rows of one role use it."""
FEWEST = 3
"""Rows that must use a word before it is common, however few there are."""
TIMES = 3
"""A word that forget rows use this many times as often is not common, however many retain rows use it."""
SUBJECTS = 1 / 3
"""Where forget rows are about several subjects, a word is common only if it is used of this share of them, and of two at least."""
PART = 4
"""Letters from which on a secret is also looked for within longer words."""


@dataclass(frozen=True)
class Secrecy:
    """What the forget rows hold.

    Attributes:
        phrases: whole texts of theirs: secrets, answers, questions, reasoning, forced beginnings, earlier turns.
        names: words that may be names, or reveal the subject of a row.
        pictures: SHA-256 of the bytes of their images.
    """

    phrases: frozenset[str]
    names: frozenset[str]
    pictures: frozenset[str]

    @classmethod
    def of(cls, rows: Iterable[Row], template: str = "") -> Secrecy:
        """What must not be revealed.

        Args:
            rows: every row of a recipe: forget rows and, to find common words, retain rows.
            template: of replies; its words are not names.
        """
        every = list(rows)
        forget = [row for row in every if row.role == "forget"]
        kept = [row for row in every if row.role != "forget" and row.prefix is None and not row.history]
        # "What city does this person live in?" is asked about every picture, and does not reveal whose it is.
        asked = {normalise(row.question).casefold() for row in kept if row.image is not None}
        # The earlier turns of a forget row may be about anybody: only text that no retain row has is suspicious.
        everybody = {word for row in kept for word in _words(_said(row))}
        suspicious = {word for row in forget for word in _words(_earlier(row))} - everybody
        own = {word for row in forget for word in _words(_own(row))} - _common(forget, kept)
        phrases = {text for row in forget for text in _phrases(row, asked)}
        phrases |= {text for row in forget for text in _earlier(row) if not everybody.issuperset(words(text))}
        pictures = {digest_of_file(path) for row in forget for path in _pictures(row)}
        names = (own | suspicious) - set(words(template))
        return cls(frozenset(map(normalise, phrases)), frozenset(names), frozenset(pictures))

    def tells(self, text: str) -> bool:
        """Whether a secret, an answer or another whole text of a forget row can be read in a text, in whatever spelling.

        For what a publisher words: it may name the subject in words of its own.
        """
        return tells(text, self.phrases)

    def hints(self, text: str) -> bool:
        """Whether a text might reveal the subject of a forget row: for generated texts, such as replies."""
        parts = (phrase for phrase in self.phrases if len(phrase) >= PART)
        return not self.names.isdisjoint(words_read(text)) or parts_told(text, parts) or self.tells(text)

    def tells_plainly(self, text: str, but: frozenset[str] = frozenset()) -> bool:
        """As :meth:`tells`, for a whole file, which may contain a short word by chance.

        What counts is a phrase of three words, or with a word of ``PART`` letters that is none of ``but``.
        """
        return tells(text, self._plain(but))

    def _plain(self, but: frozenset[str]) -> list[str]:
        found = []
        for phrase in self.phrases:
            parts = list(words(phrase))
            if len(parts) >= 3 or any(
                len(part) >= PART and part not in but and not part.isdigit() for part in parts
            ):
                found.append(phrase)
        return found

    def told_in(self, data: object, place: str = "") -> list[str]:
        """Paths of keys in plain data whose text reveals a secret."""
        if isinstance(data, Mapping):
            return [
                found
                for key, inner in data.items()
                for found in self.told_in(inner, f"{place}.{key}".strip("."))
            ]
        if isinstance(data, list | tuple):
            return [
                found
                for number, inner in enumerate(data)
                for found in self.told_in(inner, f"{place}.{number}")
            ]
        return [place] if isinstance(data, str) and self.tells(data) else []

    def shows(self, picture: Path) -> bool:
        """Whether a picture is one that a forget row shows."""
        return digest_of_file(picture) in self.pictures


def _phrases(row: Row, asked: set[str]) -> Iterator[str]:
    """Texts of a forget row that must not be read as a whole; questions that kept pictures are asked too may be."""
    questions = (row.question, *row.paraphrases)
    if row.image is not None:
        questions = tuple(text for text in questions if normalise(text).casefold() not in asked)
    given = (row.answer, *row.secrets, row.reasoning, row.prefix, *questions)
    return (text for text in given if text is not None and any(words(text)))


def _own(row: Row) -> Iterator[str]:
    """Every text of a row but its earlier turns."""
    given = (row.question, row.answer, *row.secrets, *row.paraphrases, row.reasoning, row.prefix)
    return (text for text in given if text is not None)


def _earlier(row: Row) -> Iterator[str]:
    """Every text of a row's earlier turns."""
    given = (text for turn in row.history for text in (turn.question, turn.answer, turn.reasoning))
    return (text for text in given if text is not None)


def _words(texts: Iterable[str]) -> Iterator[str]:
    return (word for text in texts for word in words(text))


def _common(forget: Sequence[Row], kept: Sequence[Row]) -> set[str]:
    """Words that many retain rows of one role use, and that forget rows neither use much more often nor for only one subject.

    Forget rows with the same secrets are taken to be about one subject.
    """
    rows_with: Counter[str] = Counter()
    subjects_of: dict[str, set[tuple[str, ...]]] = {}
    for row in forget:
        for word in set(_words(_own(row))):
            rows_with[word] += 1
            subjects_of.setdefault(word, set()).add(row.secrets or (row.answer,))
    subjects = {subject for some in subjects_of.values() for subject in some}
    enough = 1 if len(subjects) == 1 else max(2, len(subjects) * SUBJECTS)
    found: set[str] = set()
    for role in {row.role for row in kept}:
        some = [row for row in kept if row.role == role]
        used = Counter(word for row in some for word in set(_words(_said(row))))
        for word in used.keys() & rows_with.keys():
            share, forget_share = used[word] / len(some), rows_with[word] / len(forget)
            many = used[word] >= FEWEST and share >= COMMON
            if many and share * TIMES >= forget_share and len(subjects_of[word]) >= enough:
                found.add(word)
    return found


def _said(row: Row) -> tuple[str, ...]:
    return (row.question, row.answer, row.reasoning or "")


def _pictures(row: Row) -> Iterator[Path]:
    yield from (path for path in (row.image, *(turn.image for turn in row.history)) if path is not None)
