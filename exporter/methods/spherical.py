"""Spherical steering (arXiv 2602.08169): turn states on their sphere towards the difference of two means, the more the farther they are.

With mu = unit(mean_T - mean_F), T what is wanted and F what is not,

    delta = -tanh(kappa cos(h, mu)),  steer iff delta > beta,  t = clip(alpha (delta - beta) / (1 - beta), 0, 1)

and h is turned towards mu until the angle between them is (1 - t) of what it was. F are forget prompts; T are prompts that the model
refuses, or retain prompts, or refusals in place of replies, whichever costs least in trials.

The gate is exact as a threshold: delta > beta iff cos(h, mu) < -atanh(beta) / kappa, which is score linear_unit, weight mu, firing
below. beta is calibrated unless it is given. The rotation is exact too: op rotate, target direction, angle fraction, t the strength.

Deviations. t is one fixed fraction for all states, chosen by trials, where the paper's grows with delta (up to alpha, 0.6 to 0.7;
kappa is 20). The paper decides for each token by itself; here the gate decides at a prompt's end and stays on, so that a reply is not
left half way. T and F are true and false answers there. Open in the paper's notes: layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from exporter.fitting.context import FitContext
from exporter.fitting.contrast import Negatives
from exporter.fitting.decision_points import DecisionPointPlan
from exporter.fitting.gates import behind, calibrated
from exporter.fitting.mean_differences import Contrasted, mean_differences
from exporter.fitting.prompt_states import Pool
from exporter.fitting.refusals import Wording, wordings
from exporter.fitting.search import Attempt, Fraction, cheapest
from exporter.fitting.space import Between, Blocks, Fixed
from exporter.fitting.subspaces import unit
from exporter.fitting.trials import Bench
from exporter.methods.base import Yields
from steer_modules.program import Edit, Gate, SteeringProgram


class SphericalParams(BaseModel):
    """Parameters; of layers, sources and fractions, those whose trial costs least are taken."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: Annotated[tuple[int, ...] | None, Blocks()] = Field(default=None, min_length=1)
    """Blocks that are tried, each with gate and edit; by default the middle one."""
    sources: tuple[Contrasted, ...] = Field(default=("refused", "questions"), min_length=1)
    """What the forget set is contrasted with: prompts that are refused, retain prompts (`questions`), or refusals (`replies`)."""
    pool: Pool = "prompt_end"
    """What the gate reads."""
    kappa: float = Field(default=20.0, gt=0)
    beta: Annotated[float | None, Fixed()] = Field(default=None, gt=-1, lt=1)
    """delta above which a prompt is steered; by default it is calibrated."""
    fractions: Annotated[tuple[Fraction, ...], Between(0.1, 1.0)] = Field(
        default=(0.25, 0.5, 0.65, 0.8, 1.0), min_length=1
    )
    """Fractions t of the angle that are tried, each above 0 and at most 1; the paper's t is at most 0.6 to 0.7."""
    negatives: Negatives = "own"
    """Replies to forget questions, of the source `replies`: the model's own, or the answers of the rows."""
    rows: int = Field(default=192, gt=0)
    """Most rows of each role."""
    pairs: int = Field(default=96, ge=0)
    """Two-turn conversations of each kind, made from the calibration rows, on which the threshold is calibrated too."""
    trial_rows: int = Field(default=32, gt=0)


class Spherical:
    """Fits a direction, a threshold on the cosine to it, and a fraction of the angle."""

    name: ClassVar[str] = "spherical"
    Params: ClassVar[type[BaseModel]] = SphericalParams
    paper: ClassVar[str] = "https://arxiv.org/abs/2602.08169"
    yields: ClassVar[Yields] = "program"

    def fit(self, context: FitContext) -> SteeringProgram:
        """Directions, thresholds, and trials; see the module's docstring.

        Raises:
            FitError: nothing to compare, or no reply with an answer.
        """
        params = context.params
        assert isinstance(params, SphericalParams)
        chosen = wordings(context)
        bench = Bench(context, chosen, forget=params.trial_rows, keep=params.trial_rows)
        return cheapest(bench, self._attempts(context, params, chosen))

    def _attempts(
        self, context: FitContext, params: SphericalParams, chosen: list[Wording]
    ) -> Iterator[Attempt]:
        layers = params.layers or (context.host.num_layers // 2,)
        plan = DecisionPointPlan(rows=params.rows, crossed=0, pairs=params.pairs)
        for source in params.sources:
            means = mean_differences(
                context, chosen, layers, source, rows=params.rows, negatives=params.negatives
            )
            for layer in layers:
                mu = unit(means[layer])
                gate = gate_of(mu, layer, params.pool)
                if params.beta is None:
                    (best,) = calibrated(context, [gate], plan, chosen)
                    gate = best.gate
                else:
                    gate = replace(gate, threshold=-math.atanh(params.beta) / params.kappa)
                beta = math.tanh(-params.kappa * gate.threshold)
                for fraction in params.fractions:
                    edit = behind([gate], edit_of(mu, layer, fraction))
                    described = {"source": source, "beta": beta, "fraction": fraction}
                    yield context.program(self.name, [gate], [edit]), described


def gate_of(mu: Tensor, layer: int, pool: Pool) -> Gate:
    """Fires where the cosine to the unit mu [d] is below a threshold, still to be set."""
    return Gate("apart", layer, pool, "linear_unit", 0.0, "below", {"weight": mu, "bias": torch.zeros(1)})


def edit_of(mu: Tensor, layer: int, fraction: float) -> Edit:
    """Turns a state by a fraction of its angle to mu [d]."""
    return Edit(
        layer,
        None,
        "rotate",
        "all",
        fraction,
        target="direction",
        angle="fraction",
        protect="none",
        tensors={"direction": mu},
    )
