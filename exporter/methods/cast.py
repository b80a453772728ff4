"""CAST (arXiv 2409.05907): add a behaviour vector if a condition vector finds its subject in the prompt.

With c the condition vector of an early layer and p the mean state of the prompt there, the paper's similarity is

    s = cos(p, tanh(c c^T p / c.c))

and where it is above (or below) a threshold, h' = h + a v at some later layers, v the behaviour vector, here from the model's own replies to
refusals. Layer, side and threshold of the condition are those that tell the calibration rows apart best; the strength is that of the
cheapest trial.

Deviations. Without the tanh the similarity is |c.p| / |c| |p|, which is the format's subspace_ratio of rank 1 and what is stored; the
two agree where c c^T p / c.c is small, coordinate by coordinate. Neither sees the sign of c.p, so the cosine with its sign (linear_unit)
is a candidate too. The paper decides once, in the first forward pass, and then steers the whole prompt; here the prompt is steered from
its end on, and every later turn may fire too. The released code takes c and v from a principal component of paired prompts; forget and
retain rows are no pairs, so both are mean differences. States are outputs of blocks, there their inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from exporter.fitting.context import FitContext
from exporter.fitting.contrast import Negatives
from exporter.fitting.decision_points import DecisionPointPlan
from exporter.fitting.gates import behind, calibrated
from exporter.fitting.mean_differences import mean_differences
from exporter.fitting.prompt_states import Pool, prompt_states
from exporter.fitting.refusals import wordings
from exporter.fitting.search import cheapest
from exporter.fitting.selection import plain, spread
from exporter.fitting.space import Between, Blocks
from exporter.fitting.subspaces import unit
from exporter.fitting.trials import Bench
from exporter.methods.base import Yields
from steer_modules.program import Edit, Gate, SteeringProgram


class CastParams(BaseModel):
    """Parameters; of the strengths, the one whose trial costs least is taken."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: Annotated[tuple[int, ...] | None, Blocks(1 / 3)] = Field(default=None, min_length=1)
    """Blocks whose outputs are moved, all of them; by default the middle one."""
    condition_layers: Annotated[tuple[int, ...] | None, Blocks(0, 2 / 3)] = Field(default=None, min_length=1)
    """Blocks whose outputs the condition may read; by default those of the first half, none of them above an edited one."""
    pools: tuple[Pool, ...] = Field(default=("prompt_mean", "prompt_end"), min_length=1)
    """What the condition may read: a prompt's mean state, as in the paper, or its last, as its code can too."""
    similarities: tuple[Literal["subspace_ratio", "linear_unit"], ...] = Field(
        default=("subspace_ratio", "linear_unit"), min_length=1
    )
    """Scores that the condition may have: the paper's, blind to the sign of c.p, and the cosine."""
    negatives: Negatives = "own"
    """Replies to forget questions: the model's own, or the answers of the rows."""
    strengths: Annotated[tuple[float, ...], Between(0.25, 16.0, log=True)] = Field(
        default=(0.5, 1.0, 2.0, 4.0, 8.0), min_length=1
    )
    """Multiples of the mean difference that are tried."""
    rows: int = Field(default=192, gt=0)
    """Most rows of each role."""
    pairs: int = Field(default=96, ge=0)
    """Two-turn conversations of each kind, made from the calibration rows, on which the threshold is calibrated too."""
    trial_rows: int = Field(default=32, gt=0)


class Cast:
    """Fits a condition vector, its threshold, a behaviour vector and its strength."""

    name: ClassVar[str] = "cast"
    Params: ClassVar[type[BaseModel]] = CastParams
    paper: ClassVar[str] = "https://arxiv.org/abs/2409.05907"
    yields: ClassVar[Yields] = "program"

    def fit(self, context: FitContext) -> SteeringProgram:
        """The condition, the vectors, and a trial of every strength; see the module's docstring.

        Raises:
            FitError: nothing to compare, or no reply with an answer.
        """
        params = context.params
        assert isinstance(params, CastParams)
        layers, condition = _blocks(params, context.host.num_layers)
        chosen = wordings(context)
        plan = DecisionPointPlan(rows=params.rows, crossed=0, pairs=params.pairs)
        gate = calibrated(context, condition_gates(context, condition, params), plan, chosen)[0].gate
        vectors = mean_differences(
            context, chosen, layers, "replies", rows=params.rows, negatives=params.negatives
        )
        bench = Bench(context, chosen, forget=params.trial_rows, keep=params.trial_rows)

        def program(strength: float) -> SteeringProgram:
            edits = [
                Edit(layer, None, "add", "all", strength, tensors={"vector": vectors[layer]})
                for layer in layers
            ]
            return context.program(self.name, [gate], [behind([gate], edit) for edit in edits])

        return cheapest(bench, ((program(one), {"strength": one}) for one in params.strengths))

    @staticmethod
    def objections(params: CastParams, layers: int) -> Iterator[str]:
        """What can be known to be wrong with parameters before a model of so many layers is loaded; a line begins with its key."""
        edited, condition = _blocks(params, layers)
        for one in condition:
            if not 0 <= one <= min(edited):
                yield f"condition_layers: {one} is not among the layers 0 to {min(edited)}, the first edited one; set others, or later `layers`"


def _blocks(params: CastParams, count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Edited blocks, and those that the condition may read."""
    layers = params.layers or (count // 2,)
    return layers, params.condition_layers or tuple(range(min(*layers, count // 2) + 1))


def condition_gates(context: FitContext, layers: Sequence[int], params: CastParams) -> list[Gate]:
    """For every pool, layer and score, the similarity to the mean difference of forget and retain prompts, on either side of a threshold."""
    kinds = context.need("fit", "forget"), context.need("fit", "retain", "reasoning")
    found = []
    for pool in params.pools:
        forget, retain = (
            prompt_states(context, spread(plain(rows), params.rows), layers, "condition", pool)
            for rows in kinds
        )
        for layer in layers:
            condition = unit(forget[layer].mean(0) - retain[layer].mean(0))
            tensors = {
                "subspace_ratio": {"basis": condition[:, None]},
                "linear_unit": {"weight": condition, "bias": torch.zeros(1)},
            }
            found += [
                Gate("condition", layer, pool, score, 0.0, side, tensors[score])
                for score in params.similarities
                for side in ("above", "below")
            ]
    return found
