"""R-MUSE as published (arXiv 2512.17911), as far as the paper says; what it leaves open is a parameter.

Offline, per modality and layer: D(i) = Z(D_ans(i)) + Z(D_cot(i)), Z the centred z-score over the batch; v_un is the first
singular vector of the stacked D. The retain subspace U_rrs holds 80% of the energy of reasoning minus bare answer.
Online: steer iff |P h_end| / |h_end| < tau with P = U_rrs U_rrs^T; the direction is (I - P) v v^T h, whatever its sign; the
angle is that to the nearest refusal prototype, never past v (adaptive calibrated steering).

Its three ideas and their settings can be taken out one by one, for ablations: ``spans``, ``protect``, ``angle``, ``sign``, ``tau``, ``depth``. How far the
unlearning directions lie from the retain subspace on rows that were not fitted (the paper's orthogonality) is in the record.

The format has one edit a layer, so the direction of text questions is applied at one layer and that of questions about
images at the next; at the last layer one direction is fitted on both.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from exporter.fitting.calibrate import spread_rows
from exporter.fitting.context import FitContext
from exporter.fitting.contrast import Contrast, Negatives, Spans, forget_contrast, retain_contrast
from exporter.fitting.refusals import wordings
from exporter.fitting.selection import plain, spread
from exporter.fitting.space import Among, Between, Blocks
from exporter.fitting.subspaces import energy_basis, orient, principal_cosines, right_singular, unit
from exporter.methods.base import Yields
from steer_modules.program import Edit, Gate, SteeringProgram

LOG = logging.getLogger(__name__)
OBLIQUE = 0.5
"""Cosine from which on the two subspaces are said to share a direction."""


class RMuseParams(BaseModel):
    """Parameters; the defaults are the paper's where it names them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layer: Annotated[int | None, Blocks()] = None
    """Block whose output is edited; by default the middle one. Not in any public source."""
    scoring_layer: Annotated[int | None, Blocks()] = None
    """Block whose output the gate reads; by default the edited one. Not in any public source."""
    energy: Annotated[float, Between(0.5, 0.95)] = Field(default=0.8, gt=0, le=1)
    tau: Annotated[float, Between(0.3, 1.0)] = 0.85
    """Ratio below which the gate fires; the paper has 0.85. At 1 it nearly always does, at 0 never."""
    spans: Spans = "both"
    """Spans of a reply that the unlearning direction is learned from; the paper has both."""
    protect: Literal["direction", "exact", "none"] = "direction"
    """Reasoning retain subspace: the direction is taken orthogonal to it, as in the paper; `exact` keeps the state's part in it too; `none` leaves it out."""
    angle: Annotated[
        Annotated[float, Field(gt=0, le=1)] | Literal["calibrated"],
        Among(("calibrated", 0.25, 0.5, 0.75, 1.0)),
    ] = "calibrated"
    """Angle of the rotation: calibrated by refusal prototypes, as in the paper, or a fixed fraction of the way to the direction."""
    sign: Literal["state", "fixed"] = "state"
    """Side of the direction: that of the state, as in the paper, or the one from memory to refusal."""
    depth: Annotated[int, Among((1, 2, 3))] = Field(default=1, gt=0)
    """Consecutive layers that are edited; a fixed `angle` is divided among them."""
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
        """Directions, retain subspaces and prototypes of the fit rows; on calibration rows nothing is chosen.

        Raises:
            FitError: nothing to compare, or no reply with an answer.
        """
        params = context.params
        assert isinstance(params, RMuseParams)
        first = _edited(params, context.host.num_layers)
        _record_orthogonality(context, params, first)
        scoring = first if params.scoring_layer is None else params.scoring_layer
        forget = plain(context.need("fit", "forget"))
        sides = [[row for row in forget if (row.image is not None) is seen] for seen in (False, True)]
        groups = [spread(side, params.rows) for side in sides if side]
        if first == context.host.num_layers - 1 or params.depth > 1:  # no next layer for the images
            groups = [[row for group in groups for row in group]] * params.depth
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
        if first + params.depth > layers:
            yield f"depth: layer {first + params.depth - 1} does not exist; the model has {layers}"
        if params.scoring_layer is not None and params.scoring_layer > first:
            yield f"scoring_layer: {params.scoring_layer} is above the edited layer {first}; set an earlier one, or a later `layer`"


def _edited(params: RMuseParams, layers: int) -> int:
    return layers // 2 if params.layer is None else params.layer


def _retain_basis(contrast: Contrast, energy: float) -> Tensor:
    return energy_basis(contrast.hybrid(centred=True), energy)


def _edit(forget: Contrast, retain: Contrast, layer: int, params: RMuseParams) -> Edit:
    direction = right_singular(forget.hybrid(centred=True, spans=params.spans))[1][:, 0].contiguous()
    if params.sign == "fixed":
        direction = orient(direction, forget.mean)
    tensors = {"direction": direction}
    if params.angle == "calibrated":
        tensors["prototypes"] = unit(spread_rows(forget.positive, params.prototypes))
    if params.protect != "none":
        tensors["retain_basis"] = _retain_basis(retain, params.energy)
    return Edit(
        layer=layer,
        gate="memory",
        op="rotate",
        positions="from_gate",
        strength=None if params.angle == "calibrated" else params.angle / params.depth,
        target="direction",
        angle="calibrated" if params.angle == "calibrated" else "fraction",
        protect=params.protect,
        sign=params.sign,
        tensors=tensors,
    )


def _record_orthogonality(context: FitContext, params: RMuseParams, layer: int) -> None:
    """Cosines of the principal angles between the unlearning directions and the retain subspace, on calibration rows.

    The paper's protection supposes that they are nearly orthogonal.
    """
    forget = spread(plain(context.rows("calibrate", "forget")), params.rows)
    kept = spread(plain(context.rows("calibrate", "retain", "reasoning")), params.rows)
    if not forget or not kept:
        return
    unlearn = forget_contrast(
        context, forget, wordings(context), [layer], negatives=params.negatives, prefix=params.guidance
    )[layer]
    directions = energy_basis(unlearn.hybrid(centred=True, spans=params.spans), params.energy)
    basis = _retain_basis(retain_contrast(context, kept, [layer])[layer], params.energy)
    if not directions.shape[1] or not basis.shape[1]:
        return
    cosines = principal_cosines(directions, basis)
    context.record("orthogonality", layer=layer, largest=float(cosines[0]), mean=float(cosines.mean()))
    if float(cosines[0]) > OBLIQUE:
        LOG.warning(
            "note: at layer %d, unlearning directions and the retain subspace share a direction (cosine %.2f on calibration rows): "
            "protecting the one weakens the other",
            layer,
            float(cosines[0]),
        )
