"""UNDIAL: self-distillation from the base with the remembered token's logit lowered (https://arxiv.org/abs/2402.10052)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot

from exporter.fitting.space import Between
from exporter.training.labelled_columns import labelled
from exporter.training.losses import soft_nll
from exporter.training.objective import Objective
from exporter.training.objectives import retaining
from exporter.training.objectives.retaining import Retaining
from exporter.training.step import Step


class UndialParams(Retaining):
    """Parameters of UNDIAL."""

    strength: Annotated[float, Between(2.0, 20.0)] = Field(default=10.0, gt=0)
    """By how much the logit of each token of the forget set's responses is lowered in the teacher."""
    retain_weight: float = Field(default=0.0, ge=0)
    """Weight of the retain term; the paper has none."""


class Undial(Objective):
    """L = CE(softmax(z_base - strength * onehot(y)), model) on the forget set (+ w CE(retain))."""

    name = "undial"
    paper = "https://arxiv.org/abs/2402.10052"
    Params = UndialParams
    sides: ClassVar[frozenset[str]] = frozenset({"forget", "retain"})

    def loss(self, step: Step, params: UndialParams) -> Tensor:
        forget, labels = step.forget, step.forget["labels"]
        teacher = step.base(forget).logits.float()
        said = one_hot(labels[:, 1:][labelled(labels)], teacher.shape[-1])
        teacher = teacher - params.strength * said
        found = soft_nll(teacher, step.edited(forget).logits, labels)
        return found + params.retain_weight * retaining.nll(step) if params.retain_weight else found
