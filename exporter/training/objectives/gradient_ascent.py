"""Gradient ascent on the forget set, alone and with a term that holds the retain set."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from exporter.training.losses import mean_nll
from exporter.training.objective import Objective
from exporter.training.objectives import retaining
from exporter.training.objectives.retaining import Retaining
from exporter.training.settings import TrainingSettings
from exporter.training.step import Step


def ascent(step: Step) -> Tensor:
    """log p of each forget response, the mean over its tokens: float32 [B]."""
    return -mean_nll(step.edited(step.forget).logits, step.forget["labels"])


class GradientAscent(Objective):
    """L = -CE(forget). Nothing bounds it: it breaks the text when it is trained for long (https://arxiv.org/abs/2210.01504)."""

    name = "ga"
    paper = "https://arxiv.org/abs/2210.01504"

    def loss(self, step: Step, params: TrainingSettings) -> Tensor:
        del params
        return ascent(step)


class GradientDifference(Objective):
    """L = -CE(forget) + w CE(retain) (https://arxiv.org/abs/2203.12817, as in TOFU)."""

    name = "grad_diff"
    paper = "https://arxiv.org/abs/2203.12817"
    Params = Retaining
    sides: ClassVar[frozenset[str]] = frozenset({"forget", "retain"})

    def loss(self, step: Step, params: Retaining) -> Tensor:
        return ascent(step) + params.retain_weight * retaining.nll(step)


class KlMinimisation(Objective):
    """L = -CE(forget) + w KL(base || model) on the retain set (TOFU, https://arxiv.org/abs/2401.06121)."""

    name = "kl_min"
    paper = "https://arxiv.org/abs/2401.06121"
    Params = Retaining
    sides: ClassVar[frozenset[str]] = frozenset({"forget", "retain"})

    def loss(self, step: Step, params: Retaining) -> Tensor:
        return ascent(step) + params.retain_weight * retaining.from_base(step)
