"""Hand-made rows and replies for the tests of evaluate and publish."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exporter.evaluation.case import Case, Reply
from exporter.types import Generation, Role, Row, Turn


def row(identity: str, role: Role, answer: str = "paris", **fields: Any) -> Row:
    return Row(identity, f"question {identity}", answer, role, **fields)


def reply(
    identity: str,
    role: Role,
    text: str,
    *,
    model: str = "base",
    gates: Mapping[str, float] | None = None,
    image: str | None = None,
) -> Reply:
    """A reply taken apart at ``<t>`` and ``</t>``; its ids are the characters' code points."""
    ids = tuple(map(ord, text))
    reasoning, answer, chain = None, text, ids
    if text.startswith("<t>"):
        inner, closed, rest = text[3:].partition("</t>")
        reasoning, answer = inner.strip(), rest.strip()
        chain = tuple(map(ord, f"<t>{inner}")) if closed else ids
        if not closed:
            return Reply(
                Generation(model, identity, role, f"prompt {identity}", text, ids, image, gates),
                reasoning,
                None,
                chain,
            )
    generation = Generation(model, identity, role, f"prompt {identity}", text, ids, image, gates)
    return Reply(generation, reasoning, answer, chain, (image,) if image else ())


def case(
    one: Row, *texts: str, model: str = "base", fired: bool | None = None, image: str | None = None
) -> Case:
    """What a model said to a row; ``fired`` None for a model without gates."""
    gates = None if fired is None else {"topic": float(fired)}
    names = [f"{one.id}#{number}" for number in range(1, len(texts))] + [one.id]
    return Case(
        one,
        tuple(
            reply(name, one.role, text, model=model, gates=gates, image=image)
            for name, text in zip(names, texts, strict=True)
        ),
    )


OPEN = (Turn("who was that?"),)
