"""Scores that a program's gates give to the prompts of rows, for whoever wants to see where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from exporter.fit.calibrate import gate_scores
from exporter.fit.context import FitContext
from exporter.fit.pooling import PooledSequence
from exporter.types import Encoded, Prompt, Row
from steer_modules.program import Gate, SteeringProgram


def prompt_scores(
    context: FitContext, program: SteeringProgram, rows: Sequence[Row], title: str
) -> dict[str, Any]:
    """Per gate pooled over the prompt, the scores of the rows' prompts by role: ``{gate: {role: [score, ...]}}``.

    Read from the unsteered base. Rows with an earlier turn that the model is to answer itself are left out.
    """
    asked = [row for row in rows if all(turn.answer is not None for turn in row.history)]
    found: dict[str, Any] = {}
    for gate in program.gates:
        if gate.pool == "token" or not asked:
            continue
        items = [_pooled(context.chat.prompt(row), gate) for row in asked]
        states = context.collect(items, [gate.layer], title).at(gate.layer)
        by_role: dict[str, list[float]] = {}
        for row, score in zip(asked, gate_scores(gate, states).tolist(), strict=True):
            by_role.setdefault(row.role, []).append(score)
        found[gate.name] = by_role
    return found


def _pooled(prompt: Prompt, gate: Gate) -> PooledSequence:
    sequence = Encoded(prompt)
    columns = tuple(range(len(prompt.ids))) if gate.pool == "prompt_mean" else (sequence.prompt_end,)
    return PooledSequence(sequence, (columns,))
