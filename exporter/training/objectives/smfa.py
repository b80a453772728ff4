"""SMFA (https://arxiv.org/abs/2511.20196): an adapter that refuses, without what of it works hardest against one that remembers.

dW_f is an adapter trained on prompts of the forget set answered by refusals, dW_a, the anchor, one trained on the retain set. With
rho = |dW_f|_F / |dW_a|_F, elementwise

    M = [dW_a * dW_f < 0] and [k rho |dW_a| < |dW_f|],    W = W_0 + dW_f * (1 - M)

k = 5 with pictures and 10 for text alone. The masked change has no low rank; here it is truncated by SVD to the rank of an adapter again, and the
record says layer by layer how much of it that leaves out, and how much the mask took.

Not in the sources at hand: whether rho is one number or one of each matrix (here, of each matrix), and how many retain items are few (here as
many as forget items, in turn).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from exporter.fitting.context import FitContext
from exporter.training.factors import Factors, edit_of, factors_of, truncated
from exporter.training.losses import mean_nll
from exporter.training.objective import Objective, trained
from exporter.training.objectives import retaining
from exporter.training.settings import TrainingSettings
from exporter.training.step import Step
from exporter.weight_edit import WeightEdit


class SmfaParams(TrainingSettings):
    """Parameters of SMFA."""

    threshold: float | None = Field(default=None, gt=0)
    """The paper's k: how many times stronger than the anchor a change against it must be to be masked; by default 5 with pictures, 10 without."""
    shipped_rank: int | None = Field(default=None, gt=0, le=512)
    """Rank of the edit after masking, by default `rank`; a larger one leaves out less of it."""


class Smfa(Objective):
    """Trains both adapters, and masks the one by the other."""

    name = "smfa"
    paper = "https://arxiv.org/abs/2511.20196"
    Params: ClassVar[type[SmfaParams]] = SmfaParams
    sides: ClassVar[frozenset[str]] = frozenset({"forget", "refusal", "retain"})

    def loss(self, step: Step, params: SmfaParams) -> Tensor:
        """-log p of the refusal to each forget prompt, the mean over its tokens: what dW_f is trained on."""
        del params
        return mean_nll(step.edited(step.refusal).logits, step.refusal["labels"])

    def fit_once(self, context: FitContext) -> WeightEdit:
        params = context.params
        assert isinstance(params, SmfaParams)
        refusing = trained(
            context,
            params,
            lambda step: self.loss(step, params),
            name=self.name,
            sides=frozenset({"refusal"}),
        )
        anchor = trained(
            context,
            params,
            retaining.nll,
            name=f"{self.name} anchor",
            sides=frozenset({"retain"}),
            table="training_anchor",
        )
        forget, kept = factors_of(*refusing), factors_of(*anchor)
        pictures = any(row.image is not None for row in context.fit)
        threshold = params.threshold or (5.0 if pictures else 10.0)
        rank = params.shipped_rank or params.rank
        found = {
            name: _merged(context, name, one, kept[name], threshold, rank) for name, one in forget.items()
        }
        return edit_of(context, self.name, found)


def masked(forget: Tensor, anchor: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """dW_f * (1 - M) and M, bool, both [out, in], of two changes [out, in]."""
    ratio = forget.norm() / anchor.norm().clamp_min(torch.finfo(anchor.dtype).tiny)
    mask = (anchor * forget < 0) & (threshold * ratio * anchor.abs() < forget.abs())
    return forget.masked_fill(mask, 0.0), mask


def _merged(
    context: FitContext, name: str, forget: Factors, anchor: Factors, threshold: float, rank: int
) -> Factors:
    """The masked change of one layer, of low rank again; computed where the model is."""
    changes = [Factors(*(part.to(context.host.device) for part in one)).delta for one in (forget, anchor)]
    change, mask = masked(changes[0], changes[1], threshold)
    found, lacking = truncated(change, min(rank, *change.shape))
    context.record("smfa", layer=name, masked=float(mask.float().mean()), lacking=lacking)
    return found
