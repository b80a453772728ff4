"""Prototypes and a metric learned for one gate: what separates the forget set from everything else, not only what is near it.

Nearest rows judge by every direction in which prompts differ, their wording and earlier turns among them. Here prototypes
and metric are learned on the fit rows by the margin itself, as in generalised relevance learning vector quantisation
(Hammer and Villmann, Neural Networks 15, 2002, doi:10.1016/S0893-6080(02)00079-5), with the score of the gate and a
logistic loss. The model is not trained; the result is a plain ``prototype_margin`` gate.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from exporter.fitting.subspaces import unit, whitening_metric


@dataclass(frozen=True)
class LearningPlan:
    """How a gate is learned.

    Attributes:
        forget, keep: prototypes of either side.
        steps, batch, rate: Adam on random batches; the metric learns at a tenth of the rate.
        sharpness: of the soft maximum over prototypes while learning (the gate itself takes the maximum).
        scale: logistic loss per unit of margin; a margin of 1 / scale is asked for.
    """

    forget: int = 48
    keep: int = 96
    steps: int = 800
    batch: int = 512
    rate: float = 4e-3
    sharpness: float = 40.0
    scale: float = 12.0


@dataclass(frozen=True)
class LearnedPrototypes:
    """Tensors of a ``prototype_margin`` gate: center [d], metric [k,d], unit prototypes [m,k] and [n,k]."""

    center: Tensor
    metric: Tensor
    forget: Tensor
    keep: Tensor

    def tensors(self) -> dict[str, Tensor]:
        return {
            "center": self.center,
            "metric": self.metric,
            "forget_prototypes": self.forget,
            "retain_prototypes": self.keep,
        }


def learn_prototypes(
    states: Tensor, forget: Tensor, classes: Tensor, weights: Tensor, *, plan: LearningPlan, seed: int
) -> LearnedPrototypes:
    """Learn a gate; the same seed gives the same tensors.

    Args:
        states: float32 [n,d], pooled as the gate pools.
        forget: bool [n], the gate must fire.
        classes: int64 [n], alike but for the wording; they set the metric to start from.
        weights: float32 [n], how much a mistake counts; either side weighs the same in all.
    """
    generator = torch.Generator().manual_seed(seed)
    center = states.mean(0)
    centred = states - center
    metric = whitening_metric(states, classes).requires_grad_()
    mapped = unit(centred @ metric.detach().T)
    rows = {side: mapped[forget == bool(side)] for side in (1, 0)}
    counts = {1: min(plan.forget, len(rows[1])), 0: min(plan.keep, len(rows[0]))}
    prototypes = {side: clustered(rows[side], counts[side], generator).requires_grad_() for side in (1, 0)}
    optimizer = torch.optim.Adam(
        [{"params": list(prototypes.values()), "lr": plan.rate}, {"params": [metric], "lr": plan.rate / 10}]
    )
    sides = torch.where(forget, 1.0, -1.0)
    share = torch.where(forget, 0.5 / weights[forget].sum(), 0.5 / weights[~forget].sum()) * weights
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, plan.steps)
    for _ in range(plan.steps):
        chosen = torch.multinomial(share, plan.batch, replacement=True, generator=generator)
        x = unit(centred[chosen] @ metric.T)
        near = {
            side: torch.logsumexp(x @ unit(rows_).T * plan.sharpness, 1) / plan.sharpness
            for side, rows_ in prototypes.items()
        }
        loss = F.softplus(1.0 - sides[chosen] * (near[1] - near[0]) * plan.scale).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    found = {side: unit(rows_.detach()).contiguous() for side, rows_ in prototypes.items()}
    return LearnedPrototypes(center, metric.detach().contiguous(), found[1], found[0])


def clustered(rows: Tensor, count: int, generator: torch.Generator, *, rounds: int = 8) -> Tensor:
    """``count`` unit centres [count,d] of unit rows [n,d] by spherical k-means; a centre that loses all its rows stays."""
    centres = rows[torch.randperm(len(rows), generator=generator)[:count]].clone()
    for _ in range(rounds):
        nearest = (rows @ centres.T).argmax(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, rows)
        size = nearest.bincount(minlength=count).unsqueeze(1)
        centres = torch.where(size > 0, unit(sums), centres)
    return centres
