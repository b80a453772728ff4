"""R-MUSE as published (arXiv 2512.17911), as far as the paper says; what it leaves open is a parameter.

Offline, per modality and layer: D(i) = Z(D_ans(i)) + Z(D_cot(i)), Z the centred z-score over the batch; v_un is the first
singular vector of the stacked D. The retain subspace U_rrs holds 80% of the energy of reasoning minus bare answer.
Online: steer iff |P h_end| / |h_end| < tau with P = U_rrs U_rrs^T; the direction is (I - P) v v^T h, whatever its sign; the
angle is that to the nearest refusal prototype, never past v (adaptive calibrated steering).

The format has one edit a layer, so the direction of text questions is applied at one layer and that of questions about
images at the next; at the last layer one direction is fitted on both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from exporter.fitting.calibrate import spread_rows
from exporter.fitting.context import FitContext
from exporter.fitting.contrast import Contrast, Negatives, forget_contrast, retain_contrast
from exporter.fitting.refusals import wordings
from exporter.fitting.selection import plain, spread
from exporter.fitting.subspaces import energy_basis, right_singular, unit
from exporter.methods.base import Yields
from steer_modules.program import Edit, Gate, SteeringProgram


class RMuseParams(BaseModel):
    """Parameters; the defaults are the paper's where it names them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layer: int | None = None
    """Block whose output is edited; by default the middle one. Not in any public source."""
    scoring_layer: int | None = None
    """Block whose output the gate reads; by default the edited one. Not in any public source."""
    energy: float = Field(default=0.8, gt=0, le=1)
    tau: float = 0.85
    negatives: Negatives = "own"
    guidance: str = ""
    """Text before a question that should be refused (the paper's g). Not in any public source."""
    rows: int = Field(default=192, gt=0)
    prototypes: int = Field(default=64, gt=0)


class RMuse:
    """Fits R-MUSE to the letter."""

    name: ClassVar[str] = "r_muse"
    Params: ClassVar[type[BaseModel]] = RMuseParams
    paper: ClassVar[str] = "https://arxiv.org/abs/2512.17911"
    yields: ClassVar[Yields] = "program"

    def fit(self, context: FitContext) -> SteeringProgram:
        """Directions, retain subspaces and prototypes of the fit rows; calibration rows are not used.

        Raises:
            FitError: nothing to compare, or no reply with an answer.
        """
        params = context.params
        assert isinstance(params, RMuseParams)
        first = _edited(params, context.host.num_layers)
        scoring = first if params.scoring_layer is None else params.scoring_layer
        forget = plain(context.need("fit", "forget"))
        sides = [[row for row in forget if (row.image is not None) is seen] for seen in (False, True)]
        groups = [spread(side, params.rows) for side in sides if side]
        if first == context.host.num_layers - 1:  # no next layer for the images
            groups = [[row for group in groups for row in group]]
        layers = list(range(first, first + len(groups)))
        kept = spread(plain(context.need("fit", "retain", "reasoning")), params.rows)
        retain = retain_contrast(context, kept, sorted({scoring, *layers}))
        refusals = wordings(context)
        edits = []
        for layer, rows in zip(layers, groups, strict=True):
            found = forget_contrast(
                context, rows, refusals, [layer], negatives=params.negatives, prefix=params.guidance
            )[layer]
            edits.append(_edit(found, retain[layer], layer, params))
        basis = _retain_basis(retain[scoring], params.energy)
        gate = Gate("memory", scoring, "prompt_end", "subspace_ratio", params.tau, "below", {"basis": basis})
        return context.program(self.name, [gate], edits)

    @staticmethod
    def objections(params: RMuseParams, layers: int) -> Iterator[str]:
        """What can be known to be wrong with parameters before a model of so many layers is loaded; a line begins with its key."""
        first = _edited(params, layers)
        if params.scoring_layer is not None and params.scoring_layer > first:
            yield f"scoring_layer: {params.scoring_layer} is above the edited layer {first}; set an earlier one, or a later `layer`"


def _edited(params: RMuseParams, layers: int) -> int:
    return layers // 2 if params.layer is None else params.layer


def _retain_basis(contrast: Contrast, energy: float) -> Tensor:
    return energy_basis(contrast.hybrid(centred=True), energy)


def _edit(forget: Contrast, retain: Contrast, layer: int, params: RMuseParams) -> Edit:
    directions = right_singular(forget.hybrid(centred=True))[1]
    return Edit(
        layer=layer,
        gate="memory",
        op="rotate",
        positions="from_gate",
        target="direction",
        angle="calibrated",
        protect="direction",
        sign="state",
        tensors={
            "direction": directions[:, 0].contiguous(),
            "prototypes": unit(spread_rows(forget.positive, params.prototypes)),
            "retain_basis": _retain_basis(retain, params.energy),
        },
    )
