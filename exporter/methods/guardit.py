"""GUARD-IT (arXiv 2605.12765): steer away from the nearest cluster of states about the forget set, at a quarter of the depth.

k-means of forget states gives means f_k; with m the mean retain state, v_k is f_k without its part along m. A prompt with a cosine above
0.55 to some f_k is guarded, and every token is then moved away from v and scaled back to its length:

    h' = (h - a v) |h| / |h - a v|

The gate is exact: one gate of score linear_unit for each cluster, its weight the unit f_k, any of which steers. Its threshold is
calibrated, for in models whose states share a large mean every cosine is above 0.55; a number sets it.

Deviations. Which v moves a token that is near several clusters is open here: that of the f_k with the largest cosine to it. h - a v,
scaled back, lies on the great circle from h to -v; the format's rotation towards a chosen row (op rotate, target keyed) goes along
the same circle, by a fixed fraction of the way in place of the angle that a fixed a makes. The fraction is chosen by
trials. Tokens before the end of the prompt stay as they are, for no gate can know of them what comes later. Clusters are spherical
(cosines, as the gate has them), of the states that the gate reads; the number of them is a parameter.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from exporter.fitting.calibrate import Candidate, best_threshold
from exporter.fitting.context import FitContext
from exporter.fitting.decision_points import DecisionPointPlan, gather
from exporter.fitting.gates import behind
from exporter.fitting.learned_prototypes import clustered
from exporter.fitting.prompt_states import Pool, prompt_states
from exporter.fitting.refusals import Wording, wordings
from exporter.fitting.search import Fraction, cheapest
from exporter.fitting.selection import plain, spread
from exporter.fitting.space import Among, Between, Blocks, Fixed
from exporter.fitting.subspaces import unit
from exporter.fitting.trials import Bench
from exporter.methods.base import Yields
from steer_modules.program import Edit, Gate, SteeringProgram

RESTARTS = 8
"""Runs of k-means, each from other rows; one alone may end with two centres in one cluster."""


class GuardItParams(BaseModel):
    """Parameters; of the fractions, the one whose trial costs least is taken."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layer: Annotated[int | None, Blocks()] = None
    """Block whose output is read and edited; by default at a quarter of the depth, as in the paper."""
    clusters: Annotated[int, Among((2, 4, 8, 16))] = Field(default=8, gt=0)
    """Clusters of forget states; there are never more than forget rows."""
    threshold: Annotated[float | None, Fixed()] = Field(default=None, ge=-1, le=1)
    """Cosine above which a prompt is guarded; the paper's is 0.55. By default it is calibrated."""
    pool: Pool = "prompt_end"
    """What the gate reads, and what is clustered."""
    fractions: Annotated[tuple[Fraction, ...], Between(0.1, 1.0)] = Field(
        default=(0.25, 0.5, 0.75, 1.0), min_length=1
    )
    """Fractions of the angle to -v that are tried, each above 0 and at most 1."""
    rows: int = Field(default=512, gt=0)
    """Most rows of each role."""
    pairs: int = Field(default=96, ge=0)
    """Two-turn conversations of each kind, made from the calibration rows, on which the threshold is calibrated too."""
    trial_rows: int = Field(default=32, gt=0)


class GuardIt:
    """Fits clusters, a gate for each, and one rotation away from them."""

    name: ClassVar[str] = "guardit"
    Params: ClassVar[type[BaseModel]] = GuardItParams
    paper: ClassVar[str] = "https://arxiv.org/abs/2605.12765"
    yields: ClassVar[Yields] = "program"

    def fit(self, context: FitContext) -> SteeringProgram:
        """Clusters, the threshold, and a trial of every fraction; see the module's docstring.

        Raises:
            FitError: there is nothing to compare.
        """
        params = context.params
        assert isinstance(params, GuardItParams)
        layer = context.host.num_layers // 4 if params.layer is None else params.layer
        chosen = wordings(context)
        kinds = context.need("fit", "forget"), context.need("fit", "retain", "reasoning")
        forget, retain = (
            prompt_states(context, spread(plain(rows), params.rows), [layer], "prompt states", params.pool)[
                layer
            ]
            for rows in kinds
        )
        means = cluster_means(forget, params.clusters, context.seed)
        gates = _gates(context, params, chosen, means, layer)
        tensors = {"keys": unit(means), "prototypes": away_from(means, retain.mean(0))}
        bench = Bench(context, chosen, forget=params.trial_rows, keep=params.trial_rows)
        edits = (
            Edit(
                layer,
                None,
                "rotate",
                "all",
                fraction,
                target="keyed",
                angle="fraction",
                protect="none",
                tensors=tensors,
            )
            for fraction in params.fractions
        )
        return cheapest(
            bench,
            (
                (context.program(self.name, gates, [behind(gates, edit)]), {"fraction": edit.strength})
                for edit in edits
            ),
        )


def cluster_means(states: Tensor, count: int, seed: int) -> Tensor:
    """Means f_k [k,d] of at most ``count`` clusters of states [n,d], k at most n: the tightest of some runs of spherical k-means."""
    rows = unit(states)
    generator = torch.Generator().manual_seed(seed)
    runs = [clustered(rows, min(count, len(rows)), generator) for _ in range(RESTARTS)]
    centres = max(runs, key=lambda run: float((rows @ run.T).amax(1).mean()))
    members = (rows @ centres.T).argmax(1)
    return torch.stack([states[members == one].mean(0) for one in members.unique()])


def away_from(means: Tensor, retain: Tensor) -> Tensor:
    """-v_k [k,d]: minus each mean [k,d] without its part along the mean retain state [d]."""
    along = unit(retain)
    return (means @ along)[:, None] * along - means


def _gates(
    context: FitContext, params: GuardItParams, chosen: list[Wording], means: Tensor, layer: int
) -> list[Gate]:
    """One gate a cluster, all with one threshold."""
    refusals = [(wording.reasoning, wording.answer) for wording in chosen]
    plan = DecisionPointPlan(rows=params.rows, crossed=0, pairs=params.pairs)
    held, _ = gather(context, "calibrate", plan, [params.pool], refusals)
    nearest = (unit(held.states[params.pool][:, layer]) @ unit(means).T).amax(1)
    found = best_threshold(nearest, held.forget, held.weights)
    threshold = found[0] if params.threshold is None else params.threshold
    gates = [
        Gate(
            f"cluster_{number}",
            layer,
            params.pool,
            "linear_unit",
            threshold,
            "above",
            {"weight": direction.contiguous(), "bias": torch.zeros(1)},
        )
        for number, direction in enumerate(unit(means))
    ]
    if params.threshold is None:
        context.record("gates", **Candidate(gates[0], *found[1:], nearest).line())
    return gates
