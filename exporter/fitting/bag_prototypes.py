"""Prototypes and a low-rank metric for a gate that reads every column, learned from whole sequences.

As in :mod:`exporter.fitting.learned_prototypes`, prototypes and metric follow the logistic loss of the margin, but the label is
one of a sequence: the largest margin among the columns of a sequence to forget has to be positive, and so have the largest
one of its prompt and of its reply apart; the largest one of a kept sequence has to be negative (mi-SVM of Andrews,
Tsochantaridis and Hofmann, NIPS 2002, with a logistic loss). The model is not trained.

Columns are whitened and cut to the directions in which those to forget spread most, once; the metric is learned on what is left of
them, so a step costs what its rank does, whatever the model's width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from exporter.fitting.learned_prototypes import LearnedPrototypes, clustered
from exporter.fitting.subspaces import unit

EMPTY = -9.0
"""Below every margin: what no column was read of."""


@dataclass(frozen=True)
class BagLearning:
    """How a gate is learned from sequences.

    Attributes:
        rank: rows of the metric.
        explored: directions that it is made of, at most.
        forget, keep: prototypes of either side.
        steps, bags, rate: Adam on this many sequences of either side a step; the metric learns at a tenth of the rate.
        sharpness, scale: as in :class:`exporter.fitting.learned_prototypes.LearningPlan`.
        reply: what a miss in the reply costs in units of one in the prompt.
        hardness: how much likelier a kept sequence is drawn per unit of its last margin.
    """

    rank: int = 64
    explored: int = 256
    forget: int = 64
    keep: int = 96
    steps: int = 600
    bags: int = 48
    rate: float = 4e-3
    sharpness: float = 40.0
    scale: float = 12.0
    reply: float = 0.5
    hardness: float = 6.0


@dataclass(frozen=True)
class BagColumns:
    """BagColumns of sequences, one behind the other.

    Attributes:
        states: float32 [N,d].
        starts: int64 [S+1], the columns of sequence i are ``starts[i]`` to ``starts[i+1]``.
        forget: bool [S], the gate must fire.
        ends: int64 [S], the last column of the prompt within its sequence.
        weights: float32 [S], how much a mistake counts.
        shared: float32 [p,d], columns that the sequences ``behind`` bool [S] begin with, which are not among their own.
    """

    states: Tensor
    starts: Tensor
    forget: Tensor
    ends: Tensor
    weights: Tensor
    shared: Tensor | None = None
    behind: Tensor | None = None

    @property
    def owner(self) -> Tensor:
        """int64 [N]: the sequence of each column."""
        return torch.repeat_interleave(torch.arange(len(self.forget)), self.starts.diff())

    @property
    def replied(self) -> Tensor:
        """bool [N]: columns behind the prompt's last one."""
        owner = self.owner
        return torch.arange(len(owner)) - self.starts[owner] > self.ends[owner]

    def largest(self, values: Tensor, only: Tensor | None = None, shared: Tensor | None = None) -> Tensor:
        """Largest of ``values`` [N] in each sequence [S]; of the columns ``only`` [N] says, where it is given.

        Args:
            shared: values [p] of the shared beginning, which count for every sequence behind it.
        """
        kept = values if only is None else values.masked_fill(~only, EMPTY)
        found = torch.full((len(self.forget),), EMPTY).scatter_reduce(0, self.owner, kept, "amax")
        if shared is None or self.behind is None:
            return found
        return torch.where(self.behind, found.maximum(shared.max()), found)


def learn_bag_prototypes(given: BagColumns, *, plan: BagLearning, seed: int) -> LearnedPrototypes:
    """Learn a gate; the same seed gives the same tensors. The metric is [k,d], the prototypes [m,k] and [n,k]."""
    generator = torch.Generator().manual_seed(seed)
    view = _View.of(given, plan.explored)
    size = view.columns.shape[1]
    metric = torch.eye(min(plan.rank, size), size).requires_grad_()
    forget, keep = (side.requires_grad_() for side in _begin(given, view, metric, plan, generator))
    optimizer = torch.optim.Adam(
        [{"params": [forget, keep], "lr": plan.rate}, {"params": [metric], "lr": plan.rate / 10}]
    )
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, plan.steps)
    draw = _Draw(given, plan, generator)

    def margins(columns: Tensor) -> Tensor:
        mapped = unit(columns @ metric.T)
        near = [
            torch.logsumexp(mapped @ unit(side).T * plan.sharpness, 1) / plan.sharpness
            for side in (forget, keep)
        ]
        return near[0] - near[1]

    for _ in range(plan.steps):
        chosen = draw.sequences()
        cells = torch.cat(
            [torch.arange(int(given.starts[i]), int(given.starts[i + 1])) for i in chosen.tolist()]
        )
        parts, part_of = draw.part[cells].unique(return_inverse=True)
        found = torch.full((len(parts),), EMPTY).scatter_reduce(
            0, part_of, margins(view.columns[cells]), "amax"
        )
        if view.shared is not None and given.behind is not None:
            begins = given.behind[draw.bag(parts)] & (parts < draw.count)
            found = torch.where(begins, found.maximum(margins(view.shared).max()), found)
        loss = draw.loss(parts, found)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    whole = metric.detach() @ view.basis
    whole = (whole / torch.linalg.matrix_norm(whole, 2)).contiguous()
    return LearnedPrototypes(
        view.center, whole, *(unit(side.detach()).contiguous() for side in (forget, keep))
    )


@dataclass(frozen=True)
class _View:
    """Columns as the metric is learned on them.

    Attributes:
        center: [d].
        basis: [k,d], whitens kept columns and keeps the k directions in which those to forget spread most, the most first.
        columns: ``(states - center) basis^T`` [N,k]; the same of the shared beginning in ``shared`` [p,k].
    """

    center: Tensor
    basis: Tensor
    columns: Tensor
    shared: Tensor | None

    @classmethod
    def of(cls, given: BagColumns, explored: int) -> _View:
        owned = given.forget[given.owner]
        kept, about = given.states[~owned], given.states[owned]
        center, size = given.states.mean(0), given.states.shape[1]
        covariance = torch.cov(kept.T).double()
        covariance = 0.95 * covariance + 0.05 * covariance.trace() / size * torch.eye(
            size, dtype=torch.float64
        )
        values, vectors = torch.linalg.eigh(covariance)
        whiten = (vectors * values.rsqrt()) @ vectors.T
        spread = (about - kept.mean(0)) @ whiten.float()
        leading = torch.linalg.eigh((spread.T @ spread / len(spread)).double())[1].flip(1)[:, :explored]
        basis = (whiten @ leading).T.float().contiguous()
        shared = None if given.shared is None else (given.shared - center) @ basis.T
        return cls(center, basis, (given.states - center) @ basis.T, shared)


class _Draw:
    """Draws sequences, the hard kept ones more often, and weighs what the gate says of their parts."""

    def __init__(self, given: BagColumns, plan: BagLearning, generator: torch.Generator) -> None:
        self.given, self.plan, self.generator = given, plan, generator
        self.count = len(given.forget)
        self.part = torch.where(
            given.forget[given.owner] & given.replied, given.owner + self.count, given.owner
        )
        self.sides = [side.nonzero()[:, 0] for side in (given.forget, ~given.forget)]
        self.last = torch.zeros(self.count)

    def sequences(self) -> Tensor:
        """int64 [at most 2 x bags], sorted."""
        forget, kept = self.sides
        hard = self.given.weights[kept] * torch.exp(self.last[kept] * self.plan.hardness)
        chosen = [
            forget[torch.randint(len(forget), (self.plan.bags,), generator=self.generator)],
            kept[torch.multinomial(hard, self.plan.bags, replacement=True, generator=self.generator)],
        ]
        return torch.cat(chosen).unique()

    def bag(self, parts: Tensor) -> Tensor:
        """int64 [n]: the sequence of each part."""
        return torch.where(parts >= self.count, parts - self.count, parts)

    def loss(self, parts: Tensor, margins: Tensor) -> Tensor:
        """Logistic loss of the largest margins [n] of parts of sequences [n], both sides weighing the same."""
        bag = self.bag(parts)
        forget = self.given.forget[bag]
        self.last[bag[~forget]] = margins[~forget].detach()
        weight = torch.where(parts >= self.count, self.plan.reply, 1.0)[forget]
        missed = F.softplus(1 - margins[forget] * self.plan.scale) * weight
        return missed.sum() / weight.sum() + F.softplus(1 + margins[~forget] * self.plan.scale).mean()


def _begin(
    given: BagColumns, view: _View, metric: Tensor, plan: BagLearning, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Prototypes [m,k] and [n,k] to start from: centres of columns, those to forget of the quarter farthest from every kept one."""
    owned = given.forget[given.owner]
    mapped = unit(view.columns @ metric.detach().T)
    kept, about = mapped[~owned], mapped[owned]
    some = kept[torch.randperm(len(kept), generator=generator)[:20_000]]
    near = clustered(some, min(plan.keep, len(some)), generator)
    far = (about @ near.T).amax(1).argsort()[: max(len(about) // 4, 1)]
    return clustered(about[far], min(plan.forget, len(far)), generator), near
