"""What is added to a loss on the forget set so that the retain set stays."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from exporter.fitting.space import Between
from exporter.training.losses import divergence, mean_nll
from exporter.training.settings import TrainingSettings
from exporter.training.step import Step


class Retaining(TrainingSettings):
    """Parameters of objectives with a retain term."""

    retain_weight: Annotated[float, Between(0.1, 10.0, log=True)] = Field(default=1.0, ge=0)
    """Weight of the retain term."""


def nll(step: Step) -> Tensor:
    """-log p of each retain response, the mean over its tokens: float32 [B]."""
    return mean_nll(step.edited(step.retain).logits, step.retain["labels"])


def from_base(step: Step) -> Tensor:
    """KL(base || edited) of each retain response, the mean over its tokens: float32 [B]."""
    retain = step.retain
    return divergence(step.base(retain).logits, step.edited(retain).logits, retain["labels"])
