"""MMUnlearner (https://arxiv.org/abs/2502.11051): gradient ascent on the forget set, kept to weights that matter more to it than to the retain set.

    m = [F_forget / F_retain >= 1],    dW_f ~ m * grad CE(forget),    dW_r ~ -grad CE(retain)

with F the mean squared gradient of each weight, once, of the base. The paper masks weights one by one and tunes them whole, or adapters. An
elementwise mask of a change B A has no low rank and takes as much memory as the model, and the adapter's own gradients tell nothing at the
start, where B is zero. So here a mask is of rows, with F summed over each, and the change of a row is one row of B: what does not pass the mask is
not moved by the forget set, exactly, since A is held (:class:`exporter.training.saliency.RowMask`). Coarser than the paper's, and without a
truncation after training; with B alone to train, it takes a larger learning rate than other methods.

Where the paper's code takes steps of the two losses in turn, here one step has both. Its F is of batches of two; here of single conversations.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from exporter.fitting.context import FitContext
from exporter.fitting.selection import evenly
from exporter.fitting.space import Between
from exporter.training.examples import Collator, Together, examples
from exporter.training.lora import as_edit, linear_layers
from exporter.training.objective import Objective, trained
from exporter.training.objectives import retaining
from exporter.training.objectives.gradient_ascent import ascent
from exporter.training.objectives.retaining import Retaining
from exporter.training.saliency import RowMask, row_fisher, salient
from exporter.training.step import Step
from exporter.weight_edit import WeightEdit


class MmunlearnerParams(Retaining):
    """Parameters of MMUnlearner."""

    threshold: Annotated[float, Between(0.5, 4.0)] = Field(default=1.0, gt=0)
    """Least ratio of squared gradients, forget set to retain set, of a row that the forget set may move."""
    saliency_rows: int = Field(default=128, gt=0)
    """Conversations of each side that the ratio is counted over, at most."""


class Mmunlearner(Objective):
    """L = -CE(forget) on salient rows + w CE(retain) on all."""

    name = "mmunlearner"
    paper = "https://arxiv.org/abs/2502.11051"
    Params: ClassVar[type[MmunlearnerParams]] = MmunlearnerParams
    sides: ClassVar[frozenset[str]] = frozenset({"forget", "retain"})

    def __init__(self) -> None:
        self._rows: dict[str, Tensor] = {}

    def loss(self, step: Step, params: MmunlearnerParams) -> Tensor:
        """Of rows that are all salient; :meth:`fit` masks the first term."""
        return ascent(step) + params.retain_weight * retaining.nll(step)

    def fit_once(self, context: FitContext) -> WeightEdit:
        params = context.params
        assert isinstance(params, MmunlearnerParams)
        self._rows = self._rows or salient_rows(
            context, params
        )  # of the base, the same for every learning rate
        mask = RowMask(self._rows)

        def loss(step: Step) -> Tensor:
            with mask.masking():
                step.edited(step.forget)  # remembered by the step
            return self.loss(step, params)

        config, tensors = trained(context, params, loss, name=self.name, sides=self.sides, prepared=mask.on)
        return as_edit(context, self.name, config, tensors)


def salient_rows(context: FitContext, params: MmunlearnerParams) -> dict[str, Tensor]:
    """The mask: bool [out] by the full names of the layers that are edited."""
    model = context.host.model
    names = linear_layers(model, vision=params.vision)
    found = examples(context, responses=params.responses, epochs=1, sides=frozenset({"forget", "retain"}))
    collate = Collator(context.host)
    fisher = []
    for side in (found.forget, found.retain):
        chosen = [Together(one) for one in evenly(side, params.saliency_rows)]
        fisher.append(row_fisher(model, names, [collate([one])["forget"] for one in chosen]))
    rows = salient(fisher[0], fisher[1], params.threshold)
    for name, one in rows.items():
        context.record("saliency", layer=name, salient=float(one.float().mean()))
    return rows
