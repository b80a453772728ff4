"""SKU (https://arxiv.org/abs/2402.10058): an adapter learns more of what is to be forgotten, and is subtracted.

    L = e1 CE(forget) + e2 CE(forget prompts, answered as others of the forget set) - e3 KL(base || model) on the retain set
    W = W_0 - s (W_bad - W_0)

with W_bad what L leads to: guided distortion, random disassociation and preservation divergence. The signs and weights are those of the paper's
code (e1 = 0.5, e2 = e3 = 1, s = 1), where the last term drives the model away from the base on the retain set, so that the subtraction brings
it nearer; KL has no upper bound, so this term does not either. The code draws five answers of others for each prompt of a step; here one, another
one each epoch.

The paper unlearns harmful behaviour, which all answers of its forget set show alike. Facts are not like that: the second term teaches wrong ones,
which the subtraction takes away from the model as well, and little holds the retain set. A tiny model that forgets three of nine people forgets
them by 0.8 nats a token and the six others by 0.6, by 2.1 and 1.4 with e2 = 0 (tests/training/test_sku.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from exporter.fitting.context import FitContext
from exporter.fitting.space import Between
from exporter.training.losses import mean_nll
from exporter.training.objective import Objective
from exporter.training.objectives import retaining
from exporter.training.settings import TrainingSettings
from exporter.training.step import Step
from exporter.weight_edit import WeightEdit


class SkuParams(TrainingSettings):
    """Parameters of SKU."""

    distortion: Annotated[float, Between(0.1, 10.0, log=True)] = Field(default=0.5, ge=0)
    """Weight e1 of the forget set's own responses."""
    disassociation: Annotated[float, Between(0.1, 10.0, log=True)] = Field(default=1.0, ge=0)
    """Weight e2 of forget prompts with responses to others."""
    divergence: Annotated[float, Between(0.1, 10.0, log=True)] = Field(default=1.0, ge=0)
    """Weight e3 of the divergence from the base on the retain set."""
    negation: Annotated[float, Between(0.25, 4.0, log=True)] = Field(default=1.0, gt=0)
    """How many times what was learned is subtracted."""


class Sku(Objective):
    """Trains the adapter, and negates it."""

    name = "sku"
    paper = "https://arxiv.org/abs/2402.10058"
    Params: ClassVar[type[SkuParams]] = SkuParams
    sides: ClassVar[frozenset[str]] = frozenset({"forget", "retain", "other"})

    def loss(self, step: Step, params: SkuParams) -> Tensor:
        """What the adapter learns before it is negated."""
        own, other = (
            mean_nll(step.edited(batch).logits, batch["labels"]) for batch in (step.forget, step.other)
        )
        kept = retaining.from_base(step)
        return params.distortion * own + params.disassociation * other - params.divergence * kept

    def fit_once(self, context: FitContext) -> WeightEdit:
        params = context.params
        assert isinstance(params, SkuParams)
        learned = super().fit_once(context)
        tensors = {
            name: -params.negation * one if ".lora_B." in name else one
            for name, one in learned.tensors.items()
        }
        return replace(learned, tensors=tensors)
