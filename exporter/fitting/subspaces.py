"""Linear algebra of steering: subspaces, z-scores, whitening. Pure functions on float32 tensors, rows are samples.

Every function takes and returns tensors on the caller's device and is deterministic: singular vectors are given the sign
that makes their largest component positive.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-6


def unit(x: Tensor) -> Tensor:
    """Rows of x [..., d] scaled to norm 1; zero rows stay zero."""
    return x / x.norm(dim=-1, keepdim=True).clamp_min(EPS)


def right_singular(x: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values [k] and right singular vectors [d,k] of x [n,d], largest first, k = min(n, d)."""
    _, values, rows = torch.linalg.svd(x.double(), full_matrices=False)
    peaks = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    rows = rows * torch.where(peaks < 0, -1.0, 1.0)
    return values.float(), rows.T.float().contiguous()


def energy_rank(values: Tensor, energy: float) -> int:
    """Smallest k with sum of the first k squared singular values >= energy x their total; values [n] in falling order."""
    squares = values.double() ** 2
    if not len(values) or float(squares.sum()) == 0.0:
        return 0
    share = squares.cumsum(0) / squares.sum()
    return min(int((share < energy - 1e-9).sum()) + 1, len(values))


def energy_basis(x: Tensor, energy: float) -> Tensor:
    """Orthonormal [d,k], the fewest leading right singular vectors of x [n,d] with cumulative energy >= ``energy``.

    With items as rows these are R-MUSE's "left singular vectors" of the d x n matrix (arXiv 2512.17911).
    """
    values, vectors = right_singular(x)
    return vectors[:, : energy_rank(values, energy)]


def principal_cosines(one: Tensor, other: Tensor) -> Tensor:
    """Cosines of the principal angles between two subspaces, largest first, [min(j, k)].

    Args:
        one, other: orthonormal bases [d,j] and [d,k] (Bjorck & Golub 1973, https://doi.org/10.2307/2005662).
    """
    return torch.linalg.svdvals(one.double().T @ other.double()).clamp(max=1.0).float()


def z_score(x: Tensor, *, centred: bool) -> Tensor:
    """Per-dimension z-score of x [n,d] over its rows; ``centred=False`` divides by the deviation but keeps the mean.

    The mean of differences is the common shift from one behaviour to the other: centring removes exactly that.
    Dimensions without spread are left unscaled.
    """
    wide = x.double()
    deviation = wide.std(dim=0, correction=0)
    scale = torch.where(deviation > EPS, deviation, torch.ones_like(deviation))
    return ((wide - wide.mean(dim=0) if centred else wide) / scale).float()


def within_class_covariance(x: Tensor, labels: Tensor) -> Tensor:
    """Pooled covariance [d,d] of x [n,d] around the mean of each row's class; labels int64 [n]."""
    _, members = labels.unique(return_inverse=True)
    count = int(members.max()) + 1
    sums = torch.zeros(count, x.shape[1], dtype=torch.float64, device=x.device).index_add_(
        0, members, x.double()
    )
    means = sums / members.bincount(minlength=count).unsqueeze(1)
    residual = x.double() - means[members]
    return (residual.T @ residual / max(len(x) - count, 1)).float()


def whitening_metric(x: Tensor, labels: Tensor, *, shrinkage: float = 0.05) -> Tensor:
    """Symmetric M [d,d] = C^(-1/2), C the within-class covariance of x [n,d] shrunk towards its mean variance.

    C = (1 - s) S + s tr(S)/d I (Ledoit & Wolf 2004 with a fixed s): differences inside a class count less, those between
    classes count more. M is scaled to spectral norm 1.
    """
    covariance = within_class_covariance(x, labels).double()
    d = covariance.shape[0]
    mean_variance = max(float(covariance.trace()) / d, EPS)
    shrunk = (1 - shrinkage) * covariance + shrinkage * mean_variance * torch.eye(
        d, dtype=torch.float64, device=x.device
    )
    values, vectors = torch.linalg.eigh(shrunk)
    roots = values.clamp_min(EPS * mean_variance).rsqrt()
    return ((vectors * (roots / roots.max())) @ vectors.T).float()


def orient(direction: Tensor, difference: Tensor) -> Tensor:
    """direction [d] with the sign that points along difference [d] (a mean difference); an SVD leaves it open."""
    return -direction if float(direction @ difference) < 0 else direction
