"""One attack: what it is called, and how it turns a test row into a prompt."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from exporter.data.chat import Chat
from exporter.fitting.selection import plain
from exporter.fitting.template_swap import Template, name, templates
from exporter.types import Prompt, Row


@dataclass(frozen=True)
class Setting:
    """What attacks are made of: the chat, and rows of the test split alone.

    Attributes:
        kept: plain rows of roles retain and reasoning.
        refusal: (reasoning, answer) of a refusal in the model's own words.
    """

    chat: Chat
    kept: tuple[Row, ...]
    refusal: tuple[str | None, str]
    shapes: Mapping[tuple[str, bool], Template]

    @classmethod
    def of(cls, chat: Chat, rows: Sequence[Row], refusal: tuple[str | None, str]) -> Setting:
        found = plain(rows)
        kept = tuple(row for row in found if row.role in ("retain", "reasoning"))
        return cls(chat, kept, refusal, templates(rows))

    def named(self, row: Row) -> list[str]:
        """The words of the question that name its subject, where other rows ask the same of others."""
        shape = self.shapes.get((row.template_id or "", row.image is not None))
        return [] if shape is None or shape.visual else name(row, shape).split()

    def others(self, row: Row, draw: random.Random, count: int = 1) -> list[Row]:
        """Kept questions without a picture, other than the row."""
        free = [one for one in self.kept if one.image is None and one.id != row.id]
        return draw.sample(free, min(count, len(free)))


@dataclass(frozen=True)
class Attempt:
    """A row as an attacker puts it; ``prompt`` where no row can say it. Open earlier turns are answered by the model itself."""

    row: Row
    prompt: Prompt | None = None


Make = Callable[[Row, Setting, random.Random], Attempt | None]


@dataclass(frozen=True)
class Attack:
    """A way of asking; ``kept``: whether the same is done around kept rows, which must then be answered as by the base."""

    name: str
    make: Make
    kept: bool = True
