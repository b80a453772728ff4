"""Small convex problems in float64: linear functionals of normalised states, by ridge and by squared hinge."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


def normalised(h: Tensor, eps: float) -> Tensor:
    """States [..., d] as an RMSNorm of weight 1 hands them on: h / sqrt(mean(h^2) + eps), in float64."""
    h = h.double()
    return h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps)


def ridge(rows: Tensor, targets: Tensor, weights: Tensor, penalty: float | Tensor) -> Tensor:
    """argmin_w sum_i weights_i |rows_i w - targets_i|^2 + penalty |w|^2.

    Args:
        rows: [n, d].
        targets: [n] or [n, k].
        weights: [n].
        penalty: one number, or one for each of the d coefficients.

    Returns:
        [d] or [d, k], float64.
    """
    weighted = rows * weights[:, None]
    gram = weighted.T @ rows
    shrink = torch.as_tensor(penalty, dtype=gram.dtype).expand(len(gram))
    return torch.linalg.solve(gram + torch.diag(shrink), weighted.T @ targets)


def whitening(rows: Tensor, shrink: float) -> Tensor:
    """Symmetric [d, d] that makes the covariance of ``rows`` [n, d] the identity, softened by ``shrink`` of its mean."""
    centred = rows - rows.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(rows))
    return vectors @ torch.diag((values + shrink * values.mean()).rsqrt()) @ vectors.T


class Rest(NamedTuple):
    """States that are to lie far on the negative side and close together, by their moments.

    Attributes:
        mean: [f], second: [f, f], of their features.
        level: the value they are drawn to.
        weight: of their mean squared distance from it.
    """

    mean: Tensor
    second: Tensor
    level: float
    weight: float

    def loss(self, w: Tensor) -> Tensor:
        return self.weight * (w @ self.second @ w - 2 * self.level * (self.mean @ w) + self.level**2)


def squared_hinge(
    positive: Tensor,
    negative: Tensor,
    penalty: Tensor,
    rest: Rest,
    start: Tensor | None = None,
    steps: int = 80,
) -> Tensor:
    """argmin_w mean(max(0, 1 - positive w)^2) + sum(max(0, 1 + negative w)^2) / n_positive + sum(penalty w^2) + rest.

    Args:
        positive: [n, f], negative: [m, f], with a constant column where a bias is wanted.
        penalty: [f].
        start: where to begin, [f].

    Returns:
        w [f].
    """

    def loss(w: Tensor) -> Tensor:
        misses = (1 - positive @ w).clamp_min(0).pow(2).mean()
        alarms = (1 + negative @ w).clamp_min(0).pow(2).sum() / len(positive)
        return misses + alarms + (penalty * w * w).sum() + rest.loss(w)

    return _minimise(loss, torch.zeros_like(penalty) if start is None else start, steps)


def one_against_rest(rows: Tensor, classes: Tensor, count: int, penalty: Tensor, steps: int = 200) -> Tensor:
    """A squared-hinge separator for each class against all others; classes weigh the same.

    Args:
        rows: [n, f]; classes: [n], values below ``count``.
        penalty: [f].

    Returns:
        [f, count]; ``rows @ w`` is above 0 for members.
    """
    signs = torch.where(classes[:, None] == torch.arange(count), 1.0, -1.0).double()
    sizes = torch.bincount(classes, minlength=count).double()
    weights = torch.where(signs > 0, 0.5 / sizes, 0.5 / (len(rows) - sizes).clamp_min(1))

    def loss(w: Tensor) -> Tensor:
        gaps = (1 - signs * (rows @ w)).clamp_min(0).pow(2) * weights
        return gaps.sum() + (penalty[:, None] * w * w).sum()

    return _minimise(loss, torch.zeros(rows.shape[1], count, dtype=torch.float64), steps)


def _minimise(loss: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Tensor:
    w = start.detach().clone().requires_grad_()
    optimizer = torch.optim.LBFGS([w], max_iter=steps, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(w)
        value.backward()
        return value

    optimizer.step(closure)
    return w.detach()
