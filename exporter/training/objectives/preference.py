"""Preference losses: the forget set's own answers as what is not preferred, to nothing (NPO, SimNPO) or to a refusal (DPO)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from exporter.fitting.space import Between
from exporter.training.examples import Batch
from exporter.training.losses import mean_nll, sequence_nll
from exporter.training.objective import Objective
from exporter.training.objectives import retaining
from exporter.training.objectives.retaining import Retaining
from exporter.training.step import Step


class NpoParams(Retaining):
    """Parameters of NPO."""

    beta: Annotated[float, Between(0.05, 0.5, log=True)] = Field(default=0.1, gt=0)
    """Inverse temperature; towards 0 the loss becomes gradient ascent. The paper searches 0.05 to 0.2; others take 0.4."""


class Npo(Objective):
    """L = -(2/beta) log sigmoid(-beta log(p / p_base)) on the forget set + w CE(retain), p of the whole response (https://arxiv.org/abs/2404.05868)."""

    name = "npo"
    paper = "https://arxiv.org/abs/2404.05868"
    Params = NpoParams
    sides: ClassVar[frozenset[str]] = frozenset({"forget", "retain"})

    def loss(self, step: Step, params: NpoParams) -> Tensor:
        fallen = -_gained(step, step.forget)
        forgotten = -(2 / params.beta) * logsigmoid(params.beta * fallen)
        return forgotten + params.retain_weight * retaining.nll(step)


class SimNpoParams(Retaining):
    """Parameters of SimNPO."""

    beta: Annotated[float, Between(0.5, 5.0, log=True)] = Field(default=2.5, gt=0)
    """Inverse temperature."""
    gamma: Annotated[float, Between(0.0, 2.0)] = Field(default=0.0, ge=0)
    """Margin of the reward, in nats a token times beta."""


class SimNpo(Objective):
    """L = -(2/beta) log sigmoid(-(beta/|y|) log p - gamma) on the forget set + w CE(retain); no base (https://arxiv.org/abs/2410.07163)."""

    name = "simnpo"
    paper = "https://arxiv.org/abs/2410.07163"
    Params = SimNpoParams
    sides: ClassVar[frozenset[str]] = frozenset({"forget", "retain"})

    def loss(self, step: Step, params: SimNpoParams) -> Tensor:
        each = mean_nll(step.edited(step.forget).logits, step.forget["labels"])
        forgotten = -(2 / params.beta) * logsigmoid(params.beta * each - params.gamma)
        return forgotten + params.retain_weight * retaining.nll(step)


class IdkParams(Retaining):
    """Parameters of DPO towards refusals."""

    beta: Annotated[float, Between(0.05, 0.5, log=True)] = Field(default=0.1, gt=0)
    """Inverse temperature of DPO."""


class IdkDpo(Objective):
    """DPO with a refusal preferred to the answer: L = -(2/beta) log sigmoid(beta (log p/p_base(refusal) - log p/p_base(answer))) + w CE(retain).

    https://arxiv.org/abs/2305.18290 with the pairs of TOFU (https://arxiv.org/abs/2401.06121); refusals are the answers of rows of role
    ``unknown``. The papers scale by 1, TOFU's code by 2/beta, which is taken here.
    """

    name = "idk_dpo"
    paper = "https://arxiv.org/abs/2305.18290"
    Params = IdkParams
    sides: ClassVar[frozenset[str]] = frozenset({"forget", "retain", "refusal"})

    def loss(self, step: Step, params: IdkParams) -> Tensor:
        margin = _gained(step, step.refusal) - _gained(step, step.forget)
        preferred = -(2 / params.beta) * logsigmoid(params.beta * margin)
        return preferred + params.retain_weight * retaining.nll(step)


def _gained(step: Step, batch: Batch) -> Tensor:
    """log(p / p_base) of each response: float32 [B]."""
    labels = batch["labels"]
    base = sequence_nll(step.base(batch).logits, labels)
    return base - sequence_nll(step.edited(batch).logits, labels)
