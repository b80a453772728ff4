"""Conversations before a question: few-shot turns that show a model how to answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from exporter.types import Row, Turn


def as_turn(row: Row, *, answer: str | None = None, reasoning: str | None = None) -> Turn:
    """A row as an earlier turn: with its own answer and reasoning, or the given ones in place of both."""
    if answer is None:
        return Turn(row.question, row.answer, row.reasoning, row.image)
    return Turn(row.question, answer, reasoning, row.image)


def with_history(row: Row, turns: Sequence[Turn]) -> Row:
    """The row with ``turns`` before everything said so far, e.g. refusals that invite one more."""
    return dataclasses.replace(row, history=(*turns, *row.history))
