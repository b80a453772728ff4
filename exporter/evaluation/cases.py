"""Cases on disk: one model's generations as JSON lines, for a run that resumes and for readers of a report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue

from exporter.evaluation.case import Case, Reply
from exporter.types import Generation, Row


class Line(BaseModel):
    """One reply as plain data: what :func:`as_lines` writes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    id: str
    role: str
    prompt: str
    text: str
    tokens: list[int]
    row: str
    reasoning: str | None
    answer: str | None
    chain: int
    gates: dict[str, float] | None
    image: str | list[str] | None = None


def public_line(reply: Reply) -> dict[str, object]:
    """One line of ``generations.jsonl``: model, id, role, prompt, image where there is one, text, tokens.

    ``image`` is a path, or a list of paths in the order of the prompt where a conversation shows several.
    """
    generation, images = reply.generation, reply.images
    line: dict[str, object] = {
        "model": generation.model,
        "id": generation.id,
        "role": generation.role,
        "prompt": generation.prompt,
        "image": list(images) if len(images) > 1 else generation.image,
        "text": generation.text,
        "tokens": list(generation.tokens),
    }
    if generation.image is None:
        del line["image"]
    return line


def dumped(cases: Iterable[Case]) -> str:
    """JSON lines that :func:`loaded` reads back: the public line with gates, reasoning, answer and length of the chain."""
    return "".join(f"{json.dumps(line)}\n" for case in cases for line in as_lines(case))


def as_lines(case: Case) -> list[dict[str, object]]:
    """One case as plain data, a line for each of its replies; :func:`from_lines` reads them back."""
    lines = []
    for reply in case.replies:
        parts = {
            "row": case.row.id,
            "reasoning": reply.reasoning,
            "answer": reply.answer,
            "chain": len(reply.chain),
        }
        gates = None if reply.generation.gates is None else dict(reply.generation.gates)
        lines.append({**public_line(reply), "gates": gates, **parts})
    return lines


def from_lines(row: Row, lines: Iterable[Mapping[str, Any]]) -> Case:
    """The case of a row from what :func:`as_lines` made of it."""
    return Case(row, tuple(_reply(fields) for fields in lines))


def replies_of(found: JsonValue) -> list[Mapping[str, Any]]:
    """The lines of one case, checked: :func:`from_lines` reads them.

    Raises:
        ValueError: they are not what :func:`as_lines` writes, or there is none.
    """
    if not isinstance(found, list) or not found:
        raise ValueError("a case has at least one reply")
    return [Line.model_validate(one).model_dump() for one in found]


def loaded(text: str, rows: Sequence[Row]) -> list[Case]:
    """Cases from what :func:`dumped` wrote, in the order of ``rows``, which must be the rows they were made from."""
    replies: dict[str, list[Reply]] = {}
    for line in filter(None, text.split("\n")):  # splitlines would also split at U+2028 within a text
        fields = json.loads(line)
        replies.setdefault(fields["row"], []).append(_reply(fields))
    return [Case(row, tuple(replies[row.id])) for row in rows]


def _reply(fields: Mapping[str, Any]) -> Reply:
    tokens = tuple(fields["tokens"])
    image = fields.get("image")
    images = tuple(image) if isinstance(image, list) else (image,) if image else ()
    generation = Generation(
        model=fields["model"],
        id=fields["id"],
        role=fields["role"],
        prompt=fields["prompt"],
        text=fields["text"],
        tokens=tokens,
        image=images[-1] if images else None,
        gates=fields["gates"],
    )
    return Reply(generation, fields["reasoning"], fields["answer"], tokens[: fields["chain"]], images)
