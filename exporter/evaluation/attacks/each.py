"""What most attacks are: of each single question at most one row, changed in a way of its own."""

from __future__ import annotations

import random
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from exporter.evaluation.attacks.base import Chat, is_plain
from exporter.evaluation.attacks.halves import Half, half_of
from exporter.evaluation.attacks.wording import variant
from exporter.types import Row
from exporter.wording.leaks import tells

_NAME = re.compile(r"(?<=[\w,;:] )[A-Z]\w+(?:[ '-][A-Z]\w+)*")
"""Words with a capital within a sentence."""


@dataclass(frozen=True)
class Around:
    """What stands beside a row that is attacked.

    Attributes:
        plain: every row that is a single question.
    """

    plain: tuple[Row, ...]
    chat: Chat

    @cached_property
    def kept(self) -> tuple[Row, ...]:
        """Rows of the retain set."""
        return tuple(row for row in self.plain if row.role in ("retain", "reasoning"))

    def others(self, row: Row, draw: random.Random, count: int) -> list[Row]:
        """At most ``count`` drawn rows of the retain set, without a picture, other than the row."""
        free = [one for one in self.apart(row) if one.image is None]
        return draw.sample(free, min(count, len(free)))

    def apart(self, row: Row) -> list[Row]:
        """Rows of the retain set whose answers tell none of the row's secrets: a model that answers them leaks nothing."""
        hidden = row.secrets or (row.answer,)
        return [
            one
            for one in self.kept
            if one.id != row.id and not tells(f"{one.reasoning or ''} {one.answer}", hidden)
        ]

    def subject(self, row: Row) -> str | None:
        """The words that name what a row asks about; None where the rows do not show them.

        Those in which it differs from rows of the same template; else words with a capital within the question; else the longest run of
        words that no row with other secrets has.
        """
        words = row.question.split()
        alike = [one for one in self.plain if one.template_id and one.template_id == row.template_id]
        differing = [_difference(words, one.question.split()) for one in alike]
        if found := next(filter(None, differing), ""):
            return found
        if names := _NAME.findall(row.question):
            return str(max(names, key=len))
        if row.image is not None:
            return None
        foreign = {
            word
            for one in self.plain
            if one.secrets != row.secrets or one.role != row.role
            for word in one.question.split()
        }
        return _longest_run(words, foreign) if len(self.plain) > 1 else None


def _difference(words: Sequence[str], others: Sequence[str]) -> str:
    """The words between the common beginning and the common end of two questions; "" where either is all of one."""
    most = min(len(words), len(others))
    first = next((n for n in range(most) if words[n] != others[n]), most)
    last = next((n for n in range(most - first) if words[-1 - n] != others[-1 - n]), most - first)
    found = words[first : len(words) - last]
    return " ".join(found) if len(found) < len(words) else ""


def _longest_run(words: Sequence[str], foreign: set[str]) -> str | None:
    runs: list[list[str]] = [[]]
    for word in words:
        if word in foreign:
            runs.append([])
        else:
            runs[-1].append(word)
    longest = max(runs, key=len)
    return " ".join(longest) if 0 < len(longest) < len(words) else None


class Each(ABC):
    """An attack that changes each row by itself; what it draws depends on the row's id alone.

    Args:
        half: of its wordings. Measurements take the held one, of which no fit may know.
        seed: of the halves.
    """

    name: ClassVar[str]
    group: ClassVar[str]
    wordings: ClassVar[tuple[str, ...]] = ()
    """What it is worded with, both halves; {q} stands for the question, {n} for its subject."""

    def __init__(self, half: Half = "held", seed: int = 0) -> None:
        self.half, self.seed = half, seed

    def rows(self, rows: Sequence[Row], chat: Chat) -> list[Row]:
        around = Around(tuple(filter(is_plain, rows)), chat)
        found = []
        for row in around.plain:
            changes = self.change(row, around, random.Random(f"{self.name} {row.id}"))
            if changes is not None:
                found.append(variant(row, self.name, **changes))
        return found

    @abstractmethod
    def change(self, row: Row, around: Around, draw: random.Random) -> Mapping[str, object] | None:
        """Fields of the row and their new values; None where the attack cannot be made of it."""

    def worded(self, draw: random.Random) -> str:
        """One of the half's wordings."""
        return draw.choice(half_of(self.wordings, self.half, self.seed))


class Templated(Each):
    """The question, or its subject, within words of the attack's."""

    def change(self, row: Row, around: Around, draw: random.Random) -> Mapping[str, object] | None:
        text = self.worded(draw)
        subject = around.subject(row) if "{n}" in text else ""
        if subject is None:
            return None
        return {"question": text.replace("{n}", subject).replace("{q}", row.question)}
