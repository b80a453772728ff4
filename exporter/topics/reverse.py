"""Questions that describe a thing and do not name it, made of what the base says of it: how a topic is asked about without its name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from exporter.types import Row

_SENTENCE = re.compile(r"(.+?[.!?])(?:\s|$)", re.DOTALL)
LEAST = 5
"""Words of a description, at least."""


def reverse_rows(rows: Sequence[Row], wordings: Sequence[str], most: int) -> list[Row]:
    """At most ``most`` rows that ask what is described, from rows that ask about a named thing and have the base's answer.

    The role stays; the answer, and the secret of a forget row, is the name.

    Args:
        rows: with a ``key`` in which the name stands at ``{}``.
        wordings: questions with a description at ``{}``.
    """
    found: dict[str, Row] = {}
    for row in rows:
        name = _named(row)
        description = None if name is None else _without(row.answer, name)
        if name is None or description is None or description in found or len(found) >= most:
            continue
        wording = wordings[len(found) % len(wordings)]
        secrets = (name,) if row.role == "forget" else ()
        found[description] = replace(
            row,
            id=f"{row.id}/reverse",
            question=wording.format(description),
            answer=f"It is {name}.",
            secrets=secrets,
            template_id=None,
        )
    return list(found.values())


def _named(row: Row) -> str | None:
    """What a made row asks about."""
    if row.template_id is None or "{}" not in row.template_id:
        return None
    before, after = row.template_id.split("{}")
    return row.question[len(before) : len(row.question) - len(after)] or None


def _without(answer: str, name: str) -> str | None:
    """The first sentence of an answer with "it" for the name; None where it is too short, or says a word of the name still."""
    first = _SENTENCE.match(answer)
    sentence = " ".join((first[1] if first else answer).split())
    bare = re.sub(r"^(the|an?) ", "", name, flags=re.IGNORECASE)
    description = re.sub(rf"\b(the |an? )?{re.escape(bare)}(['’]s)?\b", "it", sentence, flags=re.IGNORECASE)
    parts = tuple(word.lower() for word in re.findall(r"\w+", bare) if len(word) > 3)
    left = any(word.startswith(parts) for word in re.findall(r"\w+", description.lower()))
    if description == sentence or left or len(description.split()) < LEAST:
        return None
    return description[:1].upper() + description[1:]
