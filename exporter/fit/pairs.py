"""Two-turn conversations made of single rows, so that gates and keys know later turns before a user asks one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from exporter.types import Row, Turn


def as_turn(row: Row, refusal: tuple[str | None, str] | None = None) -> Turn:
    """The row as an earlier turn, answered by its own text or by a refusal (reasoning, answer)."""
    reasoning, answer = refusal or (row.reasoning, row.answer)
    return Turn(question=row.question, answer=answer, reasoning=reasoning, image=row.image)


def pair(first: Row, second: Row, refusal: tuple[str | None, str] | None = None) -> Row:
    """``second`` asked after ``first``; it keeps its role, its secrets and its own expected answer."""
    return replace(
        second, id=f"{first.id}+{second.id}", history=(as_turn(first, refusal), *second.history), key=None
    )


def two_turn_rows(
    firsts: Sequence[Row],
    seconds: Sequence[Row],
    count: int,
    seed: int,
    refusals: Sequence[tuple[str | None, str]] = (),
) -> list[Row]:
    """Distinct pairs of rows without history or prefix, at most ``count``, the same for the same seed.

    Args:
        firsts, seconds: rows for either turn; a row is never paired with itself.
        refusals: where given, every second pair has its first turn answered by one of these instead of by the row's text.
    """
    draw = random.Random(seed)
    firsts, seconds = plain(firsts), plain(seconds)
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


def plain(rows: Sequence[Row]) -> list[Row]:
    """Rows that are a single question."""
    return [row for row in rows if not row.history and row.prefix is None]


def spread(rows: Sequence[Row], most: int) -> list[Row]:
    """At most ``most`` rows, evenly spread over their order."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / max(most - 1, 1))] for i in range(most)]


def of_one_side(rows: Sequence[Row]) -> list[Row]:
    """Rows without the kept ones that have earlier turns and share a secret with a row to forget: those turns may be about it."""
    secret = {one for row in rows if row.role == "forget" for one in row.secrets}
    return [
        row for row in rows if row.role == "forget" or not (row.history and secret.intersection(row.secrets))
    ]
