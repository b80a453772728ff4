"""MANU (https://arxiv.org/abs/2502.15910): neurons of the MLPs that the forget set needs more than the retain set are zeroed.

A neuron is an input of a block's down projection, and its importance I on a set is counted over all tokens of its conversations: mean |a|, share
of |a| > 0.1, standard deviation, and root mean square. With weights w of the four,

    S = sum_k w_k (I_k(forget) / (I_k(retain) + 1e-5) - 1)

and the neurons with the largest S of all blocks together are zeroed, for conversations with pictures and for those without apart (held against
all the retain set where it has none of the kind): a neuron that is chosen by either goes. Zeroing columns N of W is a change of rank |N|, so the
adapter is exact: B = -W[:, N], and A picks the neurons.

The paper's code, which the formula is taken from, leaves the share of |a| > 0.1 out by its weight, zeroes rows of the vision tower's MLPs by what
conversations with pictures say and rows of the decoder's by those without, and of its last three blocks alone. Here whole neurons of the decoder
go, of all its blocks by default, those with S > 0 alone, and at most 512 of a block, which is what servers take as a rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from exporter.errors import FitError
from exporter.fitting.context import FitContext
from exporter.fitting.search import Fraction
from exporter.fitting.space import Between, Fixed
from exporter.methods.base import Yields
from exporter.training.examples import Responses, examples
from exporter.training.factors import LARGEST_RANK, Factors, edit_of
from exporter.training.mlp_inputs import batches_of_inputs, down_projection
from exporter.training.search import cheapest_edit
from exporter.types import Encoded
from exporter.weight_edit import WeightEdit

ACTIVE = 0.1
"""Absolute value from which a neuron counts as active."""
SMALLEST = 1e-5
"""Added to the importance on the retain set."""
Scores = Mapping[str, Tensor]
"""S of every neuron, float64 [in], by layer."""
_AT_ONCE = 4
"""Conversations of a batch, since the inputs of all layers are in memory together."""


class ManuParams(BaseModel):
    """Parameters of MANU."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: Annotated[Fraction | Literal["search"], Between(0.005, 0.1, log=True)] = "search"
    """Share of the neurons that are zeroed; `search` tries each of `shares`."""
    shares: tuple[Fraction, ...] = Field(default=(0.01, 0.02, 0.05), min_length=1)
    """Shares that `search` tries on the calibration rows; the paper takes 0.01 to 0.05."""
    trial_rows: int = Field(default=48, gt=0)
    """Calibration rows of the forget set, and as many to keep, on which `search` judges."""
    layers: tuple[int, ...] | None = Field(default=None, min_length=1)
    """Blocks whose neurons may be zeroed; by default all."""
    frequency_weight: Annotated[float, Between(0.0, 1.0)] = Field(default=0.0, ge=0)
    """Weight of how often a neuron is active; the other three importances have 1."""
    responses: Annotated[Responses, Fixed()] = "own"
    """What the conversations say: the base's `own` replies to the rows, or the answers of the `rows`, as in the paper."""


class Manu:
    """Chooses the neurons, and zeroes them."""

    name: ClassVar[str] = "manu"
    Params: ClassVar[type[BaseModel]] = ManuParams
    paper: ClassVar[str] = "https://arxiv.org/abs/2502.15910"
    yields: ClassVar[Yields] = "edit"
    needs: ClassVar = {"fit": (("forget",), ("retain", "reasoning")), "calibrate": (("forget",),)}

    def fit(self, context: FitContext) -> WeightEdit:
        """The edit, of the rank of the block that loses most.

        Raises:
            DataError: the rows lack a role.
            FitError: a block has no down projection, or no neuron is more active on the forget set.
        """
        params = context.params
        assert isinstance(params, ManuParams)
        host = context.host
        blocks = range(host.num_layers) if params.layers is None else params.layers
        names = [down_projection(host, block) for block in blocks]
        scores = neuron_scores(context, params, names)
        if not any(bool((one > 0).any()) for side in scores for one in side.values()):
            raise FitError(
                "no neuron is more active on the forget set than on the retain set; set other `layers`, or use a method that trains (npo)"
            )
        tried = params.shares if params.share == "search" else (params.share,)
        by_name = dict(zip(names, blocks, strict=True))
        attempts = [
            (partial(self._edit, context, scores, by_name, share), {"share": share}) for share in tried
        ]
        return cheapest_edit(context, "trials", attempts, rows=params.trial_rows)

    def _edit(
        self, context: FitContext, scores: Sequence[Scores], blocks: Mapping[str, int], share: float
    ) -> WeightEdit:
        factors = {}
        for name, picked in chosen_neurons(scores, share).items():
            neurons = picked.nonzero()[:, 0]
            context.record("manu", share=share, layer=blocks[name], neurons=len(neurons), of=len(picked))
            if len(neurons):
                factors[name] = zeroing(context.host.model.get_submodule(name), neurons)
        return edit_of(context, self.name, factors)


def zeroing(layer: nn.Module, neurons: Tensor) -> Factors:
    """The change that zeroes what a linear layer does with some of its inputs, int64 [r]; exact."""
    weight = layer.get_parameter("weight").detach()
    if not isinstance(layer, nn.Linear):  # Conv1D, which has its weights the other way round
        weight = weight.T
    picks = nn.functional.one_hot(neurons, weight.shape[1]).float()
    return Factors(picks, -weight[:, neurons.to(weight.device)].float().cpu())


def neuron_scores(context: FitContext, params: ManuParams, names: Sequence[str]) -> list[Scores]:
    """S of every neuron, by the full names of the layers that read them: of conversations without images, and of those with."""
    found = examples(context, responses=params.responses, epochs=1, sides=frozenset({"forget", "retain"}))
    scores: list[Scores] = []
    for seen in (False, True):
        forget, retain = (
            [one for one in side if bool(one.prompt.images) is seen] for side in (found.forget, found.retain)
        )
        if forget:
            known = importances(context, names, forget), importances(context, names, retain or found.retain)
            scores.append(
                {name: score(known[0][name], known[1][name], params.frequency_weight) for name in names}
            )
    return scores


def chosen_neurons(scores: Sequence[Scores], share: float) -> dict[str, Tensor]:
    """Neurons that are zeroed, by layer: bool [in]."""
    parts = [best(one, share) for one in scores]
    chosen = {}
    for name in scores[0]:
        taken = torch.stack([part[name] for part in parts]).any(0)
        highest = torch.stack([one[name] for one in scores]).amax(0)
        chosen[name] = taken & _first(highest.masked_fill(~taken, -torch.inf))
    return chosen


def importances(context: FitContext, names: Sequence[str], items: Sequence[Encoded]) -> dict[str, Tensor]:
    """Of every neuron: mean |a|, share of |a| > 0.1, standard deviation and root mean square over all tokens, float64 [4, in] by layer."""
    sums: dict[str, Tensor] = {}
    count = 0
    for chosen, inputs in batches_of_inputs(context.host, names, items, min(context.batch_size, _AT_ONCE)):
        count += sum(map(len, chosen))
        for name, states in inputs.items():
            real = torch.cat([states[row, : len(one)] for row, one in enumerate(chosen)]).double()
            size = real.abs()
            each = torch.stack([size.sum(0), (size > ACTIVE).sum(0), real.sum(0), real.square().sum(0)]).cpu()
            sums[name] = sums[name] + each if name in sums else each
    found = {}
    for name, (size, active, plain, square) in ((name, one / count) for name, one in sums.items()):
        deviation = (square - plain.square()).clamp_min(0).sqrt()
        found[name] = torch.stack([size, active, deviation, square.sqrt()])
    return found


def score(forget: Tensor, retain: Tensor, frequency_weight: float) -> Tensor:
    """S of every neuron, float64 [in], of its importances [4, in]."""
    weights = torch.tensor([1.0, frequency_weight, 1.0, 1.0], dtype=forget.dtype)
    return weights @ (forget / (retain + SMALLEST) - 1)


def best(scores: Scores, share: float) -> dict[str, Tensor]:
    """Neurons with the largest scores of all layers together, those above 0: bool [in] by layer."""
    every = torch.cat(list(scores.values()))
    least = every.topk(max(int(share * len(every)), 1)).values[-1]
    return {name: (one >= least) & (one > 0) for name, one in scores.items()}


def _first(scores: Tensor) -> Tensor:
    """The 512 largest of one layer: bool [in]."""
    found = torch.zeros_like(scores, dtype=torch.bool)
    found[scores.topk(min(LARGEST_RANK, len(scores))).indices] = True
    return found
