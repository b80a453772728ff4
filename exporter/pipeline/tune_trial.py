"""One trial: a method fitted with some parameters, and judged on calibration rows."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from pydantic import BaseModel, ValidationError

from exporter import registry
from exporter.errors import FitError
from exporter.fitted import Fitted
from exporter.fitting.context import FitContext
from exporter.fitting.refusals import wordings
from exporter.fitting.space import kept_layers
from exporter.fitting.trials import Bench, Trial
from exporter.pipeline.applied import applied
from exporter.pipeline.method_checks import parameter_problems
from exporter.weight_edit import WeightEdit
from steer_modules.checks import ProgramError

if TYPE_CHECKING:
    from exporter.pipeline.run import Run

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judged:
    """What came of a trial.

    Attributes:
        trial: None where the parameters cannot be fitted, for the ``reason``.
        margin: of the method's best gate, between both sides of the calibration rows; None without a gate that was searched.
        seconds, cpu_seconds: of fit and judgement.
    """

    trial: Trial | None
    margin: float | None
    reason: str
    seconds: float
    cpu_seconds: float


class Judge:
    """Fits the default method of a recipe again and again on the same rows.

    States of the base are collected once, at every block that a trial may name; known replies are replayed above the edited block.

    Args:
        rows: most calibration rows of the forget set, and as many to keep, that a trial is judged on.
    """

    def __init__(self, work: Run, *, rows: int) -> None:
        self.name = work.recipe.methods.default
        self.method = registry.resolve(registry.METHODS, "method", self.name)
        given = work.recipe.methods.params.get(self.name, {})
        context = work.context()
        blocks = context.host.num_layers
        self.blocks = blocks
        self.context: FitContext = context
        if self.method.yields == "program":
            kept = kept_layers(self.method.Params, given, blocks, ends=False)
            read = kept_layers(self.method.Params, given, blocks, ends=True)
            self.context = replace(context, kept=kept, read=read)
        chosen = wordings(context) if context.rows("fit", "unknown") else []
        self.bench = Bench(self.context, chosen, forget=rows, keep=rows)

    def __call__(self, params: Mapping[str, object]) -> Judged:
        """Fit and judge; only what a method refuses by a FitError, or a program by its format, counts as a refused trial."""
        begun, cpu = time.monotonic(), time.process_time()
        trial, margin, reason = None, None, self._objection(params)
        if not reason:
            context = self.context_with(self.method.Params.model_validate(params))
            try:
                found: Fitted = self.method().fit(context)
            except (FitError, ProgramError) as error:
                reason = " ".join(str(error).split())[:300]
            else:
                trial, margin = self._measured(found), _margin(context.records)
        return Judged(trial, margin, reason, time.monotonic() - begun, time.process_time() - cpu)

    def context_with(self, params: BaseModel) -> FitContext:
        """What a fit with some parameters is handed, with a record of its own."""
        return replace(self.context, params=params, records={})

    def generated(self, found: Fitted) -> Trial:
        """The same judgement with every reply generated."""
        with applied(self.context.host.model, found):
            return self.bench.measure()

    def _measured(self, found: Fitted) -> Trial:
        return self.generated(found) if isinstance(found, WeightEdit) else self.bench.run(found)

    def _objection(self, params: Mapping[str, object]) -> str:
        """What is wrong with parameters before they are fitted; empty for nothing."""
        try:
            self.method.Params.model_validate(params)
        except ValidationError as error:
            return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())[
                :300
            ]
        width = self.context.host.hidden_size
        return "; ".join(parameter_problems(self.name, params, self.name, self.blocks, width))


def _margin(records: Mapping[str, list[dict[str, object]]]) -> float | None:
    """Of the first gate in the record, which is the one that was taken."""
    lines = records.get("gates", [])
    return cast("float", lines[0]["margin"]) if lines else None
