"""Rows of a recipe as the documents of two tasks: a reply to choose among four, and one to write."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from exporter.data.readers import load_rows
from exporter.data.response import ResponseFormat
from exporter.errors import InputErrors
from exporter.recipe import Recipe
from exporter.types import Row

WRONG = 3
ROLES = ("forget", "retain")


def test_rows(recipe: Recipe) -> list[Row]:
    """Plain questions in text of the recipe's test rows."""
    rows: list[Row] = []
    for source in recipe.data.test:
        place = source.dataset if source.path is None else recipe.locate(source.path)
        rows += load_rows(
            place or "", **source.model_dump(include={"format", "role", "split", "name", "limit"})
        )
    return [row for row in rows if row.image is None and not row.history and row.prefix is None]


def write_documents(recipe: Recipe, out: Path, limit: int) -> dict[str, int]:
    """``forget.jsonl`` and ``retain.jsonl``; returns how many documents each has.

    A document has ``question``, ``choices`` (the row's reply and three in which its answer and secrets are those of other rows),
    ``gold`` (place of the first), ``secrets`` and ``answer``.
    """
    rows, said = test_rows(recipe), ResponseFormat.parse(recipe.chat.reasoning_template)
    counts = {}
    for role in ROLES:
        some = [row for row in rows if row.role == role]
        documents = list(_documents(spread(some, limit), rows, said))
        if not documents:
            raise InputErrors(recipe.name, [f"no plain {role} row in text among the test rows"])
        lines = [json.dumps(one, ensure_ascii=False) for one in documents]
        (out / f"{role}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        counts[role] = len(documents)
    return counts


def _documents(some: Sequence[Row], rows: Sequence[Row], said: ResponseFormat) -> Iterator[dict[str, object]]:
    draw = random.Random(0)
    for row in some:
        right = said.fill(row.answer, row.reasoning).text
        wrong = _wrong(row, right, rows, draw)
        if len(wrong) == WRONG:
            gold = draw.randrange(WRONG + 1)
            yield {
                "id": row.id,
                "question": row.question,
                "choices": [*wrong[:gold], right, *wrong[gold:]],
                "gold": gold,
                "answer": row.answer,
                "secrets": list(row.secrets or (row.answer,)),
            }


def _wrong(row: Row, right: str, rows: Sequence[Row], draw: random.Random) -> list[str]:
    """The reply with the answers of other rows: of those that ask the same in the same words first."""
    others = [one for one in rows if one.answer != row.answer and one.role in ROLES]
    draw.shuffle(others)
    others.sort(
        key=lambda one: (one.template_id is None or one.template_id != row.template_id, one.role != row.role)
    )
    changed = (_replaced(right, _substitutes(row, other)) for other in others)
    return [text for text in dict.fromkeys(changed) if text != right][:WRONG]


def _substitutes(row: Row, other: Row) -> dict[str, str]:
    """What stands in the place of a row's answer and, where both name as many, of its secrets."""
    aligned = len(row.secrets) == len(other.secrets)
    pairs = zip(row.secrets, other.secrets, strict=True) if aligned else ()
    return {**dict(pairs), row.answer: other.answer}


def _replaced(text: str, substitutes: Mapping[str, str]) -> str:
    words = sorted(map(re.escape, substitutes), key=len, reverse=True)
    return re.sub(rf"(?<!\w)({'|'.join(words)})(?!\w)", lambda found: substitutes[found[0]], text)


def spread(rows: Sequence[Row], limit: int) -> list[Row]:
    """At most ``limit`` rows, evenly from all of them."""
    return [rows[i * len(rows) // limit] for i in range(limit)] if len(rows) > limit else list(rows)
