"""Representation misdirection: states of the forget set are pushed to one random direction, those of the retain set are held."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from exporter.fitting.space import Between, Blocks
from exporter.training.examples import Batch, responding
from exporter.training.losses import mean_square
from exporter.training.objective import Objective
from exporter.training.settings import TrainingSettings
from exporter.training.step import Step

EDITED = 3
"""Blocks that are edited: the one whose output is pushed, and those before it."""


class RmuParams(TrainingSettings):
    """Parameters of RMU."""

    layer: Annotated[int | None, Blocks(0, 2 / 3)] = Field(default=None, ge=0)
    """Block whose output is pushed; by default the one at a third of the depth."""
    coefficient: Annotated[float, Between(1.0, 50.0, log=True)] = Field(default=6.5, gt=0)
    """Length c of the target c u."""
    relative: bool = False
    """Whether `coefficient` counts in lengths of the base's own state there, as adaptive RMU does (https://arxiv.org/abs/2408.06223)."""
    retain_weight: Annotated[float, Between(1.0, 1000.0, log=True)] = Field(default=100.0, ge=0)
    """Weight of the retain term."""

    def at(self, blocks: int) -> int:
        """The block of a decoder of so many."""
        return blocks // 3 if self.layer is None else self.layer


class Rmu(Objective):
    """L = |h_l(forget) - c u|^2 + w |h_l(retain) - h_l,base(retain)|^2, means over columns and dimensions (https://arxiv.org/abs/2403.03218).

    u is uniform in [0, 1)^d and of length 1, the same in every training; the columns are those that predict and hold the response. Only block l and the two
    before it are edited.
    """

    name = "rmu"
    paper = "https://arxiv.org/abs/2403.03218"
    Params: ClassVar[type[RmuParams]] = RmuParams
    sides: ClassVar[frozenset[str]] = frozenset({"forget", "retain"})

    def layers(self, params: RmuParams, blocks: int) -> list[int]:
        at = params.at(blocks)
        return list(range(max(at - EDITED + 1, 0), at + 1))

    def loss(self, step: Step, params: RmuParams) -> Tensor:
        return pushed(step, step.forget, responding(step.forget), params) + params.retain_weight * held(
            step, step.retain, responding(step.retain), params
        )


class R2muParams(RmuParams):
    """Parameters of R2MU."""

    reasoning_weight: float = Field(default=1.0, ge=0)
    """Weight of the term on reasoning of the forget set."""
    general_weight: float = Field(default=1.0, ge=0)
    """Weight of the term that holds general reasoning, times `retain_weight`."""


class R2mu(Rmu):
    """RMU, and its like for chains of thought (https://arxiv.org/abs/2506.12963).

    L = L_RMU + w_r |h_l(reasoning of the forget set) - c u|^2 + w_g w |h_l(general reasoning) - h_l,base|^2. The paper holds general reasoning by
    a set of mathematics; here by rows of role ``reasoning``, or by the retain set where there are none.
    """

    name = "r2mu"
    paper = "https://arxiv.org/abs/2506.12963"
    Params: ClassVar[type[R2muParams]] = R2muParams
    sides: ClassVar[frozenset[str]] = frozenset({"forget", "retain", "reasoning"})

    def loss(self, step: Step, params: RmuParams) -> Tensor:
        assert isinstance(params, R2muParams)
        thought = pushed(step, step.forget, step.forget["reasoning"], params)
        general = held(step, step.reasoning, responding(step.reasoning), params)
        return (
            super().loss(step, params)
            + params.reasoning_weight * thought
            + params.general_weight * params.retain_weight * general
        )


def pushed(step: Step, batch: Batch, mask: Tensor, params: RmuParams) -> Tensor:
    """Mean squared distance of the edited block's output from c u over masked columns: float32 [B]."""
    layer = params.at(step.blocks)
    states = step.edited(batch, [layer]).states[layer]
    direction = torch.rand(states.shape[-1], generator=torch.Generator().manual_seed(0)).to(states.device)
    length: Tensor | float = params.coefficient
    if params.relative:
        length = params.coefficient * step.base(batch, [layer]).states[layer].float().norm(
            dim=-1, keepdim=True
        )
    return mean_square(states, length * direction / direction.norm(), mask)


def held(step: Step, batch: Batch, mask: Tensor, params: RmuParams) -> Tensor:
    """Mean squared distance of the edited block's output from the base's over masked columns: float32 [B]."""
    layer = params.at(step.blocks)
    wanted = step.base(batch, [layer]).states[layer]
    return mean_square(step.edited(batch, [layer]).states[layer], wanted, mask)
