"""Scores that a program's gates give to the prompts of rows, for whoever wants to see where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from exporter.fit.calibrate import gate_scores
from exporter.fit.context import FitContext
from exporter.fit.pooling import PooledSequence
from exporter.types import Encoded, Prompt, Row
from steer_modules.program import Gate, SteeringProgram


def prompt_scores(
    context: FitContext, program: SteeringProgram, rows: Sequence[Row], title: str
) -> dict[str, Any]:
    """Per gate, the scores of the rows' prompts by role: ``{gate: {role: [score, ...]}}``.

    Of a gate that reads every column, the score of the column that is nearest to firing. Read from the unsteered base. Rows with an earlier turn that the model is to answer itself are left out.
    """
    asked = [row for row in rows if all(turn.answer is not None for turn in row.history)]
    found: dict[str, Any] = {}
    for gate in program.gates if asked else ():
        items = [_pooled(context, context.chat.prompt(row), gate) for row in asked]
        states = context.collect(items, [gate.layer], title)
        values = gate_scores(gate, states.at(gate.layer))
        starts = torch.from_numpy(states.starts)
        furthest = torch.amax if gate.fires == "above" else torch.amin
        by_role: dict[str, list[float]] = {}
        for row, part in zip(asked, values.split(starts.diff().tolist()), strict=True):
            by_role.setdefault(row.role, []).append(float(furthest(part, 0)))
        found[gate.name] = by_role
    return found


def _pooled(context: FitContext, prompt: Prompt, gate: Gate) -> PooledSequence:
    """A prompt with what a gate scores of it: every column, all columns up to its last generation header, or that header's end."""
    sequence = Encoded(prompt)
    if gate.pool == "token":
        return PooledSequence(sequence, tuple((column,) for column in range(len(prompt.ids))))
    end = context.decision(prompt)
    return PooledSequence(sequence, (tuple(range(end + 1)) if gate.pool == "prompt_mean" else (end,),))
