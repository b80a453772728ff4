"""Scores that a program's gates give to the prompts of rows, for whoever wants to see where they lie."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from exporter.fitting.calibrate import gate_scores
from exporter.fitting.context import FitContext
from exporter.fitting.pooling import PooledSequence
from exporter.types import Encoded, Row
from steer_modules.program import Gate, SteeringProgram


def prompt_scores(
    context: FitContext, program: SteeringProgram, rows: Sequence[Row], title: str, layers: Sequence[int] = ()
) -> dict[str, object]:
    """Per gate, the scores of the rows' prompts by role: ``{gate: {role: [score, ...]}}``.

    Of a gate that reads every column, the score of the column that is nearest to firing. Read from the unsteered base. Rows with an
    earlier turn that the model is to answer itself are left out.

    Args:
        layers: further blocks to keep the states of in the same passes, for programs whose scores are asked for later.
    """
    asked = [row for row in rows if all(turn.answer is not None for turn in row.history)]
    if not asked or not program.gates:
        return {}
    prompts = [context.chat.prompt(row) for row in asked]
    items = [
        PooledSequence(Encoded(prompt), tuple((column,) for column in range(len(prompt.ids))))
        for prompt in prompts
    ]
    wanted = sorted({*layers, *(gate.layer for gate in program.gates)})
    states = context.collect(items, wanted, title)
    ends = [context.decision(prompt) for prompt in prompts]
    found: dict[str, object] = {}
    for gate in program.gates:
        by_role: dict[str, list[float]] = {}
        for number, row in enumerate(asked):
            read = _pooled(states.of(number, gate.layer), gate, ends[number])
            values = gate_scores(gate, read)
            by_role.setdefault(row.role, []).append(
                float(values.max() if gate.fires == "above" else values.min())
            )
        found[gate.name] = by_role
    return found


def _pooled(columns: Tensor, gate: Gate, end: int) -> Tensor:
    """What a gate reads of a prompt's columns [T,d]: all, their mean up to its last generation header, or that header's end."""
    if gate.pool == "token":
        return columns
    return columns[: end + 1].mean(0, keepdim=True) if gate.pool == "prompt_mean" else columns[end : end + 1]
