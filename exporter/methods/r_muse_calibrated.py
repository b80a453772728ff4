"""R-MUSE (arXiv 2512.17911) with what its formulas leave to chance settled by calibration rows.

Three changes: the z-score divides by the deviation but keeps the mean, for the mean of the differences is the very shift
from memory to refusal; the direction is turned to point along that shift; the gate is searched and its threshold set
(:mod:`exporter.fitting.calibrate`). Layer and protection are those whose trial with the really steered model costs least.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from exporter.fitting.calibrate import spread_rows
from exporter.fitting.context import FitContext
from exporter.fitting.contrast import Contrast, Negatives, forget_contrast, retain_contrast
from exporter.fitting.gates import GatePlan, choose_gates, gate_below
from exporter.fitting.refusals import Wording, wordings
from exporter.fitting.search import cheapest
from exporter.fitting.selection import plain, spread
from exporter.fitting.space import Between, Blocks
from exporter.fitting.subspaces import energy_basis, orient, right_singular, unit
from exporter.fitting.trials import Bench
from exporter.methods.base import Yields
from steer_modules.program import Edit, SteeringProgram

Protection = Literal["none", "direction", "exact"]


class RMuseCalibratedParams(BaseModel):
    """Parameters; layers and protections given are those that are tried."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: Annotated[tuple[int, ...] | None, Blocks()] = None
    """Blocks to try; by default at a third, a half and two thirds of the depth, and the last."""
    protections: tuple[Protection, ...] = ("none", "exact")
    energy: Annotated[float, Between(0.5, 0.95)] = Field(default=0.8, gt=0, le=1)
    negatives: Negatives = "own"
    guidance: str = ""
    rows: int = Field(default=192, gt=0)
    prototypes: int = Field(default=64, gt=0)
    trial_rows: int = Field(default=32, gt=0)
    gate: GatePlan = GatePlan()


class RMuseCalibrated:
    """Fits calibrated R-MUSE."""

    name: ClassVar[str] = "r_muse_calibrated"
    Params: ClassVar[type[BaseModel]] = RMuseCalibratedParams
    paper: ClassVar[str] = "https://arxiv.org/abs/2512.17911"
    yields: ClassVar[Yields] = "program"

    def fit(self, context: FitContext) -> SteeringProgram:
        """Gate, directions and trials; see the module's docstring.

        Raises:
            FitError: nothing to compare, or no reply with an answer.
        """
        params = context.params
        assert isinstance(params, RMuseCalibratedParams)
        chosen = wordings(context)
        gates = choose_gates(context, params.gate, chosen)
        bench = Bench(context, chosen, forget=params.trial_rows, keep=params.trial_rows)
        programs = (
            (context.program(self.name, [gate_below(gates, edit.layer)], [edit]), {"protect": edit.protect})
            for edit in self._edits(context, params, chosen)
        )
        return cheapest(bench, programs)

    def _edits(
        self, context: FitContext, params: RMuseCalibratedParams, chosen: Sequence[Wording]
    ) -> Iterator[Edit]:
        count = context.host.num_layers
        layers = params.layers or tuple(sorted({count // 3, count // 2, 2 * count // 3, count - 1}))
        forget = spread(plain(context.need("fit", "forget")), params.rows)
        kept = spread(plain(context.need("fit", "retain", "reasoning")), params.rows)
        found = forget_contrast(
            context, forget, chosen, layers, negatives=params.negatives, prefix=params.guidance
        )
        retain = retain_contrast(context, kept, layers)
        for layer in layers:
            for protect in params.protections:
                yield _edit(found[layer], retain[layer], layer, protect, params)


def _edit(
    forget: Contrast, retain: Contrast, layer: int, protect: Protection, params: RMuseCalibratedParams
) -> Edit:
    directions = right_singular(forget.hybrid(centred=False))[1]
    tensors = {
        "direction": orient(directions[:, 0], forget.mean).contiguous(),
        "prototypes": unit(spread_rows(forget.positive, params.prototypes)),
    }
    if protect != "none":
        tensors["retain_basis"] = energy_basis(retain.hybrid(centred=False), params.energy)
    return Edit(
        layer=layer,
        gate="topic",
        op="rotate",
        positions="from_gate",
        target="direction",
        angle="calibrated",
        protect=protect,
        tensors=tensors,
    )
