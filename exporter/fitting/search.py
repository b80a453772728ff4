"""The cheapest of several programs, each tried on the calibration rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import Field

from exporter.errors import FitError
from exporter.fitting.trials import Bench, Trial
from steer_modules.program import SteeringProgram

Attempt = tuple[SteeringProgram, Mapping[str, object]]
"""A program, and what the report's table says of it besides its layers."""

Fraction = Annotated[float, Field(gt=0, le=1)]
"""Part of the way that a rotation goes."""


def cheapest(bench: Bench, attempts: Iterable[Attempt]) -> SteeringProgram:
    """The first of the programs with the least cost; those behind one that costs nothing are not tried.

    Every trial is a line of the table ``trials``. Of one alone there is nothing to choose, so where whoever asked for this fit tries
    what it finds, it is not tried here.

    Raises:
        FitError: there is nothing to try.
    """
    if bench.context.kept:
        attempts = list(attempts)
        if len(attempts) == 1:
            return attempts[0][0]
    best: tuple[SteeringProgram, Trial] | None = None
    for program, described in attempts:
        trial = bench.run(program)
        bench.context.record(
            "trials",
            method=program.method,
            layers=[edit.layer for edit in program.edits],
            gate_layers=[gate.layer for gate in program.gates],
            **described,
            **trial.line(),
        )
        if best is None or trial.cost < best[1].cost - 1e-9:
            best = program, trial
        if best[1].cost < 1e-9:
            break
    if best is None:
        raise FitError("there is no program to try; give at least one layer and one strength")
    return best[0]
