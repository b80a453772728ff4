"""What a fitted program does to the planted model, and planted states whose directions are known by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import planted
import torch
from torch import Tensor

from exporter.fitting.context import FitContext
from exporter.fitting.gates import GatePlan
from exporter.types import Encoded, Row
from steer_modules import ops
from steer_modules.attach import steered
from steer_modules.program import SteeringProgram

GATE = GatePlan(scores=("linear",), pools=("prompt_mean",), learned=0, crossed=2, pairs=8)
"""A search that finds a gate on the planted model in no time."""


def untouched(context: FitContext, program: SteeringProgram, asked: list[Row]) -> list[bool]:
    """Whether the logits of each row's prompt are the base's to the bit."""
    host = context.host
    prompts = [Encoded(context.chat.prompt(row)) for row in asked]

    def logits() -> list[Tensor]:
        with torch.no_grad():
            return [host.model(**host.batch([one], "right")).logits for one in prompts]

    before = logits()
    with steered(host.model, program):
        after = logits()
    return [torch.equal(a, b) for a, b in zip(before, after, strict=True)]


def told(context: FitContext, program: SteeringProgram, asked: list[Row]) -> list[str]:
    """What the steered model says to each row."""
    with steered(context.host.model, program):
        return planted.told(context.host, asked)


def leaking(context: FitContext, program: SteeringProgram, asked: list[Row]) -> int:
    """How many replies have the place in them."""
    said = told(context, program, asked)
    return sum(row.answer.split()[2] in text.split() for row, text in zip(asked, said, strict=True))


# --- states without a model -------------------------------------------------------------------------------------

NAMES = ("topic", "kept", "strange", "refuse", "tell")
_AXES = torch.linalg.qr(torch.randn(planted.WIDTH, len(NAMES), generator=torch.Generator().manual_seed(3)))[0]
TOPICS = {70: "topic", 71: "kept", 72: "strange"}
"""What a question is about, by a token in it."""
REFUSING = (60, 61)


def axis(name: str) -> Tensor:
    """Unit direction [d] of one name; all are orthogonal."""
    return _AXES[:, NAMES.index(name)].clone()


def cosine(a: Tensor, b: Tensor) -> float:
    return float(ops.unit(a) @ ops.unit(b))


def state(sequence: Encoded, column: int, layer: int) -> Tensor:
    """The topic once it was named; behind the prompt, whether the reply tells or refuses; and some noise."""
    ids = (sequence.prompt.ids + sequence.response)[: column + 1]
    seed = 1009 * layer + 31 * column + sum(place * one for place, one in enumerate(ids, start=1))
    found = 0.15 * torch.randn(planted.WIDTH, generator=torch.Generator().manual_seed(seed))
    for token, name in TOPICS.items():
        found += 3.0 * axis(name) * (token in ids)
    if column > sequence.prompt_end:
        found += 3.0 * axis("refuse" if ids[sequence.prompt_end + 1] in REFUSING else "tell")
    elif column == sequence.prompt_end:
        found += 3.0 * axis("refuse") * (72 in ids)
    return found


def numeral_rows(count: int = 8, first: int = 3) -> list[Row]:
    """Questions about each topic, with answers that tell, or refuse."""
    refusal = " ".join(map(str, REFUSING))
    return [
        Row(
            f"{role}-{number}",
            f"{number} {token} 84 85",
            refusal if token == 72 else f"{number + 20} 7",
            role,
        )
        for token, role in zip(TOPICS, ("forget", "retain", "unknown"), strict=True)
        for number in range(first, first + count)
    ]  # type: ignore[arg-type]


def states_context(folder: Path, params: object, fit: list[Row] | None = None) -> planted.PlantedContext:
    """A context of numeral rows whose states are those of :func:`state`."""
    fit = numeral_rows() if fit is None else fit
    return planted.states_context(folder, state, fit, numeral_rows(4, 20), params, layers=4)


def with_roles(rows: list[Row], **roles: str) -> list[Row]:
    """The rows under other roles: what a fit on wrong rows gets."""
    return [replace(row, role=roles.get(row.role, row.role)) for row in rows]  # type: ignore[arg-type]
