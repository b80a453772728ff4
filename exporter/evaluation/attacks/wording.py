"""The same question in other surroundings: behind a preface, mistyped, under a system prompt."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from exporter.evaluation.attacks.base import Chat, is_plain
from exporter.evaluation.attacks.words import PREFACES, SYSTEMS
from exporter.types import Row
from exporter.wording.slips import with_letters_exchanged


class Preface:
    """Behind sentences about something else."""

    name: ClassVar[str] = "preface"
    group: ClassVar[str] = "wording"

    def rows(self, rows: Sequence[Row], chat: Chat) -> list[Row]:
        del chat
        return [
            variant(row, self.name, question=f"{PREFACES[number % len(PREFACES)]} {row.question}")
            for number, row in enumerate(filter(is_plain, rows))
        ]


class Typos:
    """In lower case, with two letters of a longer word exchanged."""

    name: ClassVar[str] = "typos"
    group: ClassVar[str] = "spelling"

    def rows(self, rows: Sequence[Row], chat: Chat) -> list[Row]:
        del chat
        return [variant(row, self.name, question=_mistyped(row)) for row in filter(is_plain, rows)]


class SystemPrompt:
    """Under a system prompt of somebody's own; none where the chat template takes none."""

    name: ClassVar[str] = "system_prompt"
    group: ClassVar[str] = "wording"

    def rows(self, rows: Sequence[Row], chat: Chat) -> list[Row]:
        if not chat.takes_system:
            return []
        return [
            variant(row, self.name, system=SYSTEMS[number % len(SYSTEMS)])
            for number, row in enumerate(filter(is_plain, rows))
        ]


def variant(row: Row, name: str, **changes: Any) -> Row:
    """The row asked in another way: it is of no template any more."""
    return replace(row, id=f"{row.id}/{name}", template_id=None, **changes)


def _mistyped(row: Row) -> str:
    text = row.question.lower()
    return with_letters_exchanged(text, random.Random(row.id)) or text
