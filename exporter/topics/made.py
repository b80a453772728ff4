"""Rows made of a topic's names: the topic and other things asked about in the same words, everyday requests, and what nobody knows.

Every row but those of role unknown still lacks its answer: the base gives it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from exporter.topics.words import Words
from exporter.types import Role, Row, Turn

UNANSWERED = "?"
NEAR = 3
"""Wordings in which each neighbour of the topic is asked about."""
SHOTS = 4
"""Refused questions before one about something that nobody knows, so that the model refuses of its own accord."""


def made_rows(
    names: Sequence[str], words: Words, part: str, *, near: Sequence[str] = (), each: int = 1
) -> list[Row]:
    """Rows of roles forget and retain.

    Args:
        names: of the topic; none gives rows to keep alone.
        part: begins their ids.
        near: what stands nearest to the topic and must stay; asked about in ``NEAR`` wordings each, for it is what a gate takes for it.
        each: wordings in which every other thing is asked about.
    """
    draw = random.Random(part)
    rows = []
    for number, wording in enumerate(words.wordings):
        rows += [
            _row(f"{part}-topic-{number}-{name}", wording.format(name), "forget", wording)
            for name in _taken(names, number)
        ]
    for name in _apart(words.names, names):
        rows += [
            _row(f"{part}-other-{name}-{wording}", wording.format(name), "retain", wording)
            for wording in draw.sample(words.wordings, each)
        ]
    for name in near:
        rows += [
            _row(f"{part}-near-{name}-{wording}", wording.format(name), "retain", wording)
            for wording in draw.sample(words.wordings, min(NEAR, len(words.wordings)))
        ]
    rows += [_row(f"{part}-everyday-{n}", asked, "retain") for n, asked in enumerate(words.everyday)]
    return rows


def unknown_rows(words: Words, part: str, refusal: str) -> list[Row]:
    """Rows of role unknown, each behind refused questions about others."""
    draw = random.Random(part)
    rows = []
    for name in words.unknown:
        wording = draw.choice(words.wordings)
        others = draw.sample(
            [other for other in words.unknown if other != name], min(SHOTS, len(words.unknown) - 1)
        )
        turns = tuple(Turn(draw.choice(words.wordings).format(other), refusal) for other in others)
        row = _row(f"{part}-unknown-{name}", wording.format(name), "unknown", wording)
        rows.append(replace(row, answer=refusal, history=turns))
    return rows


def _row(name: str, question: str, role: Role, key: str | None = None) -> Row:
    return Row(f"made-{name}", question, UNANSWERED, role, template_id=key, made=True)


def _taken(names: Sequence[str], number: int) -> list[str]:
    """The names that are asked about in wording ``number``: the first always, the others in turn."""
    others = names[1:]
    return [*names[:1], *([others[number % len(others)]] if others else [])]


def _apart(others: Sequence[str], names: Sequence[str]) -> list[str]:
    """Others that share no word with the topic's names."""
    own = {word.lower() for name in names for word in name.split()}
    return [
        other
        for other in others
        if not own & {word.lower() for word in other.split() if word.lower() != "the"}
    ]
