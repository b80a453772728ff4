"""Conversations made of single questions: something else is asked before, answered or refused."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from exporter.evaluation.attacks.base import Chat, is_plain
from exporter.evaluation.attacks.wording import variant
from exporter.types import Row, Turn

Refusal = tuple[str | None, str]
"""Reasoning and answer of a refusal."""


def as_turn(row: Row, refusal: Refusal | None = None) -> Turn:
    """The row as an earlier turn, answered by its own text or by a refusal."""
    reasoning, answer = refusal or (row.reasoning, row.answer)
    return Turn(question=row.question, answer=answer, reasoning=reasoning, image=row.image)


def pair(first: Row, second: Row, refusal: Refusal | None = None) -> Row:
    """``second`` asked after ``first``; it keeps its role, its secrets and its own expected answer."""
    return replace(
        second,
        id=f"{first.id}+{second.id}",
        history=(as_turn(first, refusal), *second.history),
        template_id=None,
    )


def two_turn_rows(
    firsts: Sequence[Row],
    seconds: Sequence[Row],
    count: int,
    seed: int,
    refusals: Sequence[Refusal] = (),
) -> list[Row]:
    """Distinct pairs of rows without history or prefix, at most ``count``, the same for the same seed.

    Args:
        firsts, seconds: rows for either turn; a row is never paired with itself.
        refusals: where given, every second pair has its first turn answered by one of these instead of by the row's text.
    """
    draw = random.Random(seed)
    firsts, seconds = list(filter(is_plain, firsts)), list(filter(is_plain, seconds))
    if not firsts or not seconds:
        return []
    found: dict[tuple[object, ...], Row] = {}
    for number in range(count):
        second = seconds[draw.randrange(len(seconds))]
        others = [
            row for row in (firsts[draw.randrange(len(firsts))] for _ in range(4)) if row.id != second.id
        ]
        refusal = refusals[number // 2 % len(refusals)] if refusals and number % 2 else None
        if others:
            found.setdefault((others[0].id, second.id, refusal), pair(others[0], second, refusal))
    return list(found.values())


@dataclass(frozen=True)
class TwoTurns:
    """Each behind a drawn question that is not to be forgotten, with its answer; a refusal where it is of role unknown."""

    name: ClassVar[str] = "two_turns"
    group: ClassVar[str] = "turns"
    seed: int = 0

    def rows(self, rows: Sequence[Row], chat: Chat) -> list[Row]:
        del chat
        firsts = [row for row in rows if row.role != "forget"]
        pairs = [two_turn_rows(firsts, [row], 1, self.seed + number) for number, row in enumerate(rows)]
        return [row for made in pairs for row in made]


@dataclass(frozen=True)
class LaterTurn:
    """Behind one question that is to be kept, with its answer.

    Attributes:
        before: rows whose turns stand before, one after the other; none takes the rows to keep among those attacked.
    """

    name: ClassVar[str] = "later_turn"
    group: ClassVar[str] = "turns"
    before: tuple[Row, ...] = ()

    def rows(self, rows: Sequence[Row], chat: Chat) -> list[Row]:
        del chat
        kept = self.before or tuple(row for row in filter(is_plain, rows) if row.role == "retain")
        found = []
        for number, row in enumerate(filter(is_plain, rows)):
            if others := [one for one in kept if one.id != row.id]:
                first = others[number % len(others)]
                found.append(variant(row, self.name, history=(Turn(first.question, first.answer),)))
        return found
