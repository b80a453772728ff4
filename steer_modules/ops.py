"""Gate scores and edits as pure functions of tensors: the closed op set of format ``steerbake/1``.

Every function takes float32 and returns float32. Shapes: ``...`` any leading axes, ``d`` the hidden size.
"""

from collections.abc import Callable

import torch
from torch import Tensor

EPS = 1e-6
_TINY = torch.finfo(torch.float32).tiny


def norm(x: Tensor) -> Tensor:
    """Euclidean norm over the last axis, kept as an axis of size 1: [..., d] -> [..., 1].

    Scaled by the largest coordinate first, so that it does not overflow where the norm itself is a float32.
    """
    scale = x.abs().amax(-1, keepdim=True).clamp_min(_TINY)
    return scale * torch.linalg.vector_norm(x / scale, dim=-1, keepdim=True)


def unit(x: Tensor) -> Tensor:
    """x / max(|x|, eps) over the last axis: [..., d] -> [..., d]."""
    return x / norm(x).clamp_min(EPS)


def orthogonal_to(rows: Tensor, basis: Tensor) -> Tensor:
    """Unit rows [..., d] without their part in the span of ``basis`` [d, r] (orthonormal columns)."""
    return unit(rows - rows @ basis @ basis.T)


# --- scores: pooled states p [..., d] -> [...] -----------------------------------------------------------------


def subspace_ratio(p: Tensor, basis: Tensor, center: Tensor | None = None) -> Tensor:
    """|B^T q| / max(|q|, eps) with q = p - center: the share of the state that lies in the subspace (R-MUSE)."""
    q = p if center is None else p - center
    return (norm(q @ basis) / norm(q).clamp_min(EPS)).squeeze(-1)


def prototype_margin(
    p: Tensor,
    forget_prototypes: Tensor,
    retain_prototypes: Tensor,
    center: Tensor | None = None,
    metric: Tensor | None = None,
) -> Tensor:
    """max_i f_i.x - max_j r_j.x with x = unit(M (p - center)); prototypes [m, d], [n, d] are unit and mapped."""
    q = p if center is None else p - center
    x = unit(q if metric is None else q @ metric.T)
    return (x @ forget_prototypes.T).amax(-1) - (x @ retain_prototypes.T).amax(-1)


def linear(p: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """weight . p + bias, weight [d], bias [1]."""
    return p @ weight + bias


def linear_unit(p: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """weight . unit(p) + bias: what an ordinary layer behind an RMSNorm can express exactly."""
    return unit(p) @ weight + bias


# --- edits: states h [..., d] -> [..., d] ----------------------------------------------------------------------


def add(h: Tensor, vector: Tensor, strength: float = 1.0, keep_norm: bool = False) -> Tensor:
    """h + strength * vector [d]; with ``keep_norm`` rescaled to |h|."""
    moved = h + strength * vector
    if not keep_norm:
        return moved
    length = norm(moved)
    return torch.where(length < EPS, h, moved * (norm(h) / length.clamp_min(EPS)))


def project(h: Tensor, basis: Tensor, center: Tensor | None = None, strength: float = 1.0) -> Tensor:
    """h - strength * B B^T (h - center), basis [d, r] with orthonormal columns."""
    q = h if center is None else h - center
    return h - strength * (q @ basis @ basis.T)


def affine(h: Tensor, left: Tensor, right: Tensor, bias: Tensor, strength: float = 1.0) -> Tensor:
    """h + strength * (left (right h) + bias): left [d, k], right [k, d], bias [d]."""
    return h + strength * (h @ right.T @ left.T + bias)


def nearest_row(x: Tensor, rows: Tensor) -> Tensor:
    """Index [...] of the row of ``rows`` [m, d] (unit) with the largest cosine to x [..., d]; ties to the lowest."""
    return (unit(x) @ rows.T).argmax(-1)


def rotate(
    h: Tensor,
    *,
    target: str,
    angle: str,
    protect: str = "none",
    sign: str = "fixed",
    strength: float = 1.0,
    direction: Tensor | None = None,
    prototypes: Tensor | None = None,
    keys: Tensor | None = None,
    key_center: Tensor | None = None,
    retain_basis: Tensor | None = None,
) -> Tensor:
    """Turns h towards a refusal target on the sphere of its own norm (R-MUSE, arXiv 2512.17911; docs/format.md).

    Args:
        h: states [..., d].
        target: "direction" [d], "nearest" row of ``prototypes`` [m, d], or the prototype "keyed" by the best of ``keys``.
        angle: "calibrated" (as far as the nearest prototype is away, never past the target) or "fraction" of the way.
        protect: "none"; "direction" takes the target orthogonal to ``retain_basis`` [d, r]; "exact" turns only the
            part of h outside that basis, so that R^T h is unchanged.
        sign: "state" turns ``direction`` to the side h is on (the paper's v v^T h).

    Returns:
        States [..., d] of the same norm. Unchanged where h has no length, is parallel to its target, or is not finite.
    """
    kept = h @ retain_basis @ retain_basis.T if protect == "exact" and retain_basis is not None else None
    x = h if kept is None else h - kept
    xh = unit(x)
    basis = None if protect == "none" else retain_basis
    if target == "direction":
        assert direction is not None
        u = unit(direction) if basis is None else orthogonal_to(direction, basis)
        if sign == "state":
            side = h @ direction
            u = torch.where(side < 0, -1.0, 1.0).unsqueeze(-1) * u
        u = u.expand_as(x)
    else:
        assert prototypes is not None
        rows = unit(prototypes) if basis is None else orthogonal_to(prototypes, basis)
        if target == "keyed":
            assert keys is not None
            chosen = nearest_row(h if key_center is None else h - key_center, unit(keys))
        else:
            chosen = nearest_row(x, rows)
        u = rows[chosen]
    cosine = (u * xh).sum(-1, keepdim=True)
    across = u - cosine * xh
    length = norm(x)
    if angle == "calibrated":
        assert prototypes is not None
        refusals = (
            orthogonal_to(prototypes, retain_basis)
            if kept is not None and retain_basis is not None
            else unit(prototypes)
        )
        cos_phi = torch.maximum((xh @ refusals.T).amax(-1, keepdim=True), cosine).clamp(-1.0, 1.0)
        sin_phi = (1.0 - cos_phi * cos_phi).clamp_min(0.0).sqrt()
        turned = length * (cos_phi * xh + sin_phi * unit(across))
    elif strength == 1:
        turned = length * u
    else:
        phi = strength * torch.atan2(norm(across), cosine)
        turned = length * (torch.cos(phi) * xh + torch.sin(phi) * unit(across))
    still = (norm(across) < EPS) | (length < EPS)
    return torch.where(still, h, turned if kept is None else turned + kept)


SCORES: dict[str, Callable[..., Tensor]] = {
    "subspace_ratio": subspace_ratio,
    "prototype_margin": prototype_margin,
    "linear": linear,
    "linear_unit": linear_unit,
}
EDITS: dict[str, Callable[..., Tensor]] = {"rotate": rotate, "add": add, "project": project, "affine": affine}


def fires(score: Tensor, threshold: float, side: str) -> Tensor:
    """Whether a gate fires, as bool of the score's shape. A NaN score fires: what cannot be judged is steered."""
    return ~(score >= threshold) if side == "below" else ~(score <= threshold)


def keep_finite(h: Tensor, edited: Tensor) -> Tensor:
    """``edited`` [..., d], but h itself where h is not finite (or so huge that the edit overflows)."""
    finite = torch.isfinite(h) & torch.isfinite(edited)
    return torch.where(finite.all(-1, keepdim=True), edited, h)
