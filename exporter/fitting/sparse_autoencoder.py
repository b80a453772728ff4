"""A small sparse autoencoder: states as sums of few directions out of some hundreds (top-k, Gao et al., arXiv 2406.04093)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from exporter.fitting.subspaces import EPS, unit


class SparsePlan(BaseModel):
    """Size and training of the autoencoder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    features: int = Field(default=256, gt=0)
    """Directions that are learned."""
    active: int = Field(default=16, gt=0)
    """Most directions in one state."""
    steps: int = Field(default=1500, gt=0)
    batch: int = Field(default=256, gt=0)
    rate: float = Field(default=2e-3, gt=0)


@dataclass(frozen=True)
class SparseAutoencoder:
    """z = top-k(relu(E (h - center) + bias)), h ~ center + D z.

    Attributes:
        encoder: E [m,d].
        bias: [m], in the units of z, which are those of the states.
        decoder: D [d,m], unit columns.
        center: [d], the mean state.
        active: k.
    """

    encoder: Tensor
    bias: Tensor
    decoder: Tensor
    center: Tensor
    active: int

    def features(self, states: Tensor) -> Tensor:
        """z [n,m] of states [n,d]: at most ``active`` of a row are not 0."""
        return _top(F.relu((states - self.center) @ self.encoder.T + self.bias), self.active)

    def reconstructed(self, states: Tensor) -> Tensor:
        """What the features say of states [n,d]."""
        return self.center + self.features(states) @ self.decoder.T

    def explained(self, states: Tensor) -> float:
        """Share of the variance of states [n,d] that the features explain."""
        left = (states - self.reconstructed(states)).square().sum()
        return float(1 - left / (states - self.center).square().sum().clamp_min(EPS))


def learn_features(states: Tensor, plan: SparsePlan, seed: int) -> SparseAutoencoder:
    """An autoencoder of states [n,d], float32; the same seed gives the same tensors.

    Directions start as differences of states from their mean; states are scaled to a length of 1 on average while it learns.
    """
    generator = torch.Generator().manual_seed(seed)
    center = states.mean(0)
    centred = states - center
    scale = centred.norm(dim=1).mean().clamp_min(EPS)
    rows = centred / scale
    drawn = torch.randint(len(rows), (plan.features,), generator=generator)
    start = unit(
        rows[drawn]
        + 0.1 * torch.randn(plan.features, rows.shape[1], generator=generator) / rows.shape[1] ** 0.5
    )
    decoder, encoder = start.clone().requires_grad_(), start.clone().requires_grad_()
    bias = torch.zeros(plan.features, requires_grad=True)
    active = min(plan.active, plan.features)
    optimizer = torch.optim.Adam([decoder, encoder, bias], lr=plan.rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, plan.steps)
    for _ in range(plan.steps):
        x = rows[torch.randint(len(rows), (plan.batch,), generator=generator)]
        said = _top(F.relu(x @ encoder.T + bias), active) @ unit(decoder)
        loss = (x - said).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return SparseAutoencoder(
        encoder=encoder.detach().contiguous(),
        bias=scale * bias.detach(),
        decoder=unit(decoder.detach()).T.contiguous(),
        center=center,
        active=active,
    )


def _top(values: Tensor, count: int) -> Tensor:
    """Values [n,m] with all but the ``count`` largest of each row set to 0."""
    kept = values.topk(count, dim=1)
    return torch.zeros_like(values).scatter(1, kept.indices, kept.values)
