"""SAUCE (arXiv 2503.14530): take the forget set's features of a sparse autoencoder out of the states of one layer.

With z = Enc(h) the features of a state, and z' the same with those of the forget set, S, scaled by gamma, the paper writes

    h' = h + Dec(z') - Dec(z) = h + (gamma - 1) D_S z_S

A small top-k autoencoder is trained on states of the fit rows (:mod:`exporter.fitting.sparse_autoencoder`); S are the features that are
larger on forget than on retain rows by the most, relative to their size.

Deviations. The format has no threshold inside an edit, so z_S is taken affine in h: either as it is where all of S are active,

    z_S ~ E_S (h - c) + b_S,    h' = h + (gamma - 1) (D_S E_S h + D_S (b_S - E_S c))

or by ridge regression of the exact z_S on the fit rows' states, whichever errs less on the forget rows of the calibration set. That is one affine
edit of the rank of S. Where features of S are off, an affine one is not, so the edit stands behind a gate. The table ``sauce`` has the
error of both on calibration rows: the root of the mean square of the difference of the two shifts, over that of the exact one. Open in
the paper's notes: layer, how many features, and gamma, which is chosen by trials. The autoencoder is small and sees the fit rows alone.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from exporter.errors import FitError
from exporter.fitting.column_states import Part, column_states
from exporter.fitting.context import FitContext
from exporter.fitting.gates import GatePlan, behind, choose_gates, gate_below
from exporter.fitting.refusals import wordings
from exporter.fitting.search import cheapest
from exporter.fitting.selection import plain, spread
from exporter.fitting.space import Among, Between, Blocks
from exporter.fitting.sparse_autoencoder import SparseAutoencoder, SparsePlan, learn_features
from exporter.fitting.subspaces import EPS
from exporter.fitting.trials import Bench
from exporter.methods.base import Yields
from steer_modules import ops
from steer_modules.program import Edit, Gate, SteeringProgram


class SauceParams(BaseModel):
    """Parameters; of the scales, the one whose trial costs least is taken."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layer: Annotated[int | None, Blocks()] = None
    """Block whose output is taken apart and edited; by default the middle one."""
    autoencoder: SparsePlan = SparsePlan()
    concept: Annotated[int, Among((2, 4, 8, 16))] = Field(default=8, gt=0)
    """Most features that are scaled, and so the rank of the edit."""
    scales: Annotated[tuple[float, ...], Between(-10.0, 0.0)] = Field(
        default=(0.0, -1.0, -3.0, -7.0), min_length=1
    )
    """Values of gamma that are tried: 0 takes the features out, a negative one turns them round."""
    rows: int = Field(default=192, gt=0)
    """Most rows of each role."""
    columns: int = Field(default=24, gt=0)
    """Most columns of each row, spread evenly."""
    ridge: float = Field(default=0.01, gt=0)
    """Damping of the fitted features, in units of the states' mean variance."""
    gate: Annotated[GatePlan | None, Among((None, {}))] = GatePlan()
    """The gate, searched at prompts' ends; None for none, though affine features are wrong where they are off."""
    trial_rows: int = Field(default=32, gt=0)


class Sauce:
    """Fits an autoencoder, the features of the forget set, a gate and a scale."""

    name: ClassVar[str] = "sauce"
    Params: ClassVar[type[BaseModel]] = SauceParams
    paper: ClassVar[str] = "https://arxiv.org/abs/2503.14530"
    yields: ClassVar[Yields] = "program"

    def fit(self, context: FitContext) -> SteeringProgram:
        """Features, gate, and a trial of every scale; see the module's docstring.

        Raises:
            FitError: no feature is larger on the forget set than on the retain set.
        """
        params = context.params
        assert isinstance(params, SauceParams)
        layer = context.host.num_layers // 2 if params.layer is None else params.layer
        chosen = wordings(context)
        gates: list[Gate] = []
        if params.gate is not None:
            gates = [gate_below(choose_gates(context, params.gate, chosen), layer)]
        learned = learn_features(
            torch.cat(_states(context, params, layer, "fit", "whole")), params.autoencoder, context.seed
        )
        forget, retain = _states(context, params, layer, "fit", "reply")
        concept = concept_features(learned.features(forget), learned.features(retain), params.concept)
        held = _states(context, params, layer, "calibrate", "reply")
        shifts = {
            "active": active_shift(learned, concept),
            "fitted": fitted_shift(learned, concept, forget, retain, params.ridge),
        }
        errors = {}
        for reading, one in shifts.items():
            line = measured(learned, concept, one, *held)
            context.record("sauce", layer=layer, reading=reading, features=concept.tolist(), **line)
            errors[reading] = line["forget_error"]
        tensors = shifts[min(errors, key=errors.__getitem__)]
        bench = Bench(context, chosen, forget=params.trial_rows, keep=params.trial_rows)

        def program(scale: float) -> SteeringProgram:
            edit = Edit(layer, None, "affine", "all", scale - 1.0, tensors=tensors)
            return context.program(self.name, gates, [behind(gates, edit)])

        return cheapest(bench, ((program(scale), {"scale": scale}) for scale in params.scales))


def _states(
    context: FitContext, params: SauceParams, layer: int, split: str, part: Part
) -> tuple[Tensor, Tensor]:
    """States [n,d] and [m,d] of columns of the forget and the retain rows of a split."""
    sides = context.need(split, "forget"), context.need(split, "retain", "reasoning")
    forget, retain = (
        column_states(
            context, spread(plain(rows), params.rows), [layer], "columns", part=part, most=params.columns
        )[layer]
        for rows in sides
    )
    return forget, retain


def concept_features(forget: Tensor, retain: Tensor, most: int) -> Tensor:
    """Numbers of at most ``most`` features that are larger on forget states than on retain states, most telling first.

    A feature's size on a side is its mean over the states of that side, features [n,m] and [r,m]; what counts is the difference over the sum,
    times the difference: features that hardly ever fire, or fire for both alike, come last.

    Raises:
        FitError: there is none.
    """
    here, there = forget.mean(0), retain.mean(0)
    shift = here - there
    telling = shift.clamp_min(0) * shift / (here + there).clamp_min(EPS)
    ranked = telling.argsort(descending=True, stable=True)[:most]
    found = ranked[telling[ranked] > 0]
    if not len(found):
        raise FitError(
            "no feature of the autoencoder is larger on forget rows than on retain rows; set another `layer`, or more `features`"
        )
    return found


def active_shift(learned: SparseAutoencoder, concept: Tensor) -> dict[str, Tensor]:
    """Tensors of the affine edit h + strength D_S z_S, z_S [k] as it is where all of S are active: left [d,k], right [k,d], bias [d]."""
    left, right = learned.decoder[:, concept], learned.encoder[concept]
    bias = left @ (learned.bias[concept] - right @ learned.center)
    return {"left": left.contiguous(), "right": right.contiguous(), "bias": bias}


def fitted_shift(
    learned: SparseAutoencoder, concept: Tensor, forget: Tensor, retain: Tensor, ridge: float
) -> dict[str, Tensor]:
    """The same with the affine z_S [k] that is nearest to the exact one on states [n,d] and [m,d], either side weighing as much."""
    weights = torch.cat([torch.full((len(one),), 0.5 / len(one)) for one in (forget, retain)]).double()
    states = torch.cat([forget, retain])
    goals = learned.features(states)[:, concept].double()
    x = states.double()
    mean, level = weights @ x, weights @ goals
    centred = (x - mean) * weights[:, None].sqrt()
    gram = centred.T @ centred
    damped = gram + ridge * gram.trace() / len(gram) * torch.eye(len(gram), dtype=torch.float64)
    right = torch.linalg.solve(damped, centred.T @ ((goals - level) * weights[:, None].sqrt())).T
    left = learned.decoder[:, concept]
    bias = left @ (level - right @ mean).float()
    return {"left": left.contiguous(), "right": right.float().contiguous(), "bias": bias}


def measured(
    learned: SparseAutoencoder,
    concept: Tensor,
    tensors: dict[str, Tensor],
    forget: Tensor,
    retain: Tensor,
) -> dict[str, float]:
    """What the affine shift has to do with the exact one, on states [n,d] and [m,d] of either side."""
    found = {}
    for side, states in (("forget", forget), ("retain", retain)):
        features = learned.features(states)
        exact = features[:, concept] @ learned.decoder[:, concept].T
        linear = ops.affine(states, tensors["left"], tensors["right"], tensors["bias"]) - states
        found[f"{side}_explained"] = learned.explained(states)
        found[f"{side}_active"] = float((features[:, concept] > 0).any(1).float().mean())
        found[f"{side}_shift"] = float(exact.norm() / states.norm().clamp_min(EPS))
        found[f"{side}_error"] = float((linear - exact).norm() / exact.norm().clamp_min(EPS))
    return {name: round(value, 4) for name, value in found.items()}
