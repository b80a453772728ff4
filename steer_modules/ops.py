"""Gate scores and edits as pure functions of tensors: the closed op set of format ``steerbake/2``.

Every function takes float32 and returns float32. Shapes: ``...`` any leading axes, ``d`` the hidden size.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

EPS = 1e-6
_TINY = torch.finfo(torch.float32).tiny


def norm(x: Tensor) -> Tensor:
    """Euclidean norm over the last axis, kept as an axis of size 1: [..., d] -> [..., 1].

    Scaled by the largest coordinate first, so that it does not overflow where the norm itself is a float32.
    """
    scale = torch.linalg.vector_norm(x, ord=torch.inf, dim=-1, keepdim=True).clamp_min(_TINY)
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
    """max_i f_i.x - max_j r_j.x with x = unit(M (p - center)), M [k, d]; prototypes [m, k], [n, k] are unit and mapped."""
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


def keep_finite(h: Tensor, edited: Tensor) -> Tensor:
    """``edited`` [..., d], but h itself where h is not finite (or so huge that the edit overflows)."""
    finite = torch.isfinite(h) & torch.isfinite(edited)
    return torch.where(finite.all(-1, keepdim=True), edited, h)


def add(h: Tensor, vector: Tensor, strength: float = 1.0, keep_norm: bool = False) -> Tensor:
    """h + strength * vector [d]; with ``keep_norm`` rescaled to |h|."""
    moved = h + strength * vector
    if keep_norm:
        length = norm(moved)
        moved = torch.where(length < EPS, h, moved * (norm(h) / length.clamp_min(EPS)))
    return keep_finite(h, moved)


def project(h: Tensor, basis: Tensor, center: Tensor | None = None, strength: float = 1.0) -> Tensor:
    """h - strength * B B^T (h - center), basis [d, r] with orthonormal columns."""
    q = h if center is None else h - center
    return keep_finite(h, h - strength * (q @ basis @ basis.T))


def affine(h: Tensor, left: Tensor, right: Tensor, bias: Tensor, strength: float = 1.0) -> Tensor:
    """h + strength * (left (right h) + bias): left [d, k], right [k, d], bias [d]."""
    return keep_finite(h, h + strength * (h @ right.T @ left.T + bias))


def nearest_row(x: Tensor, rows: Tensor) -> Tensor:
    """Index [...] of the row of ``rows`` [m, d] (unit) with the largest cosine to x [..., d]; ties to the lowest.

    The length of x does not matter to the order, so it is not taken out.
    """
    return (x @ rows.T).argmax(-1)


def prepare_rotate(protect: str = "none", **tensors: Tensor) -> dict[str, Tensor]:
    """What :func:`turn` needs of its stored tensors, whatever the state: unit rows, orthogonal where protected.

    Args:
        protect: "none" | "direction" | "exact".
        tensors: as stored: direction [d], prototypes [m, d], keys [m, d], key_center [d], retain_basis [d, r].

    Returns:
        direction [d] and prototypes [m, d] unit and, where they are the target, orthogonal to ``retain_basis``;
        keys [m, d] unit; ``raw_direction``; key_center and retain_basis as they are.
    """
    ready = {name: t for name, t in tensors.items() if name in ("key_center", "retain_basis")}
    basis = None if protect == "none" else tensors["retain_basis"]
    if "keys" in tensors:
        ready["keys"] = unit(tensors["keys"])
    if "direction" in tensors:
        direction = tensors["direction"]
        ready["raw_direction"] = direction
        ready["direction"] = unit(direction) if basis is None else orthogonal_to(direction, basis)
    if "prototypes" in tensors:
        aims = "direction" not in tensors or protect == "exact"
        rows = tensors["prototypes"]
        ready["prototypes"] = orthogonal_to(rows, basis) if aims and basis is not None else unit(rows)
    return ready


def turn(
    h: Tensor,
    *,
    target: str,
    angle: str,
    protect: str = "none",
    sign: str = "fixed",
    strength: float = 1.0,
    direction: Tensor | None = None,
    raw_direction: Tensor | None = None,
    prototypes: Tensor | None = None,
    keys: Tensor | None = None,
    key_center: Tensor | None = None,
    retain_basis: Tensor | None = None,
) -> Tensor:
    """Turns h towards a refusal target on the sphere of its own norm (R-MUSE, arXiv 2512.17911; docs/format.md).

    Args:
        h: states [..., d].
        target: "direction", "nearest" row of the prototypes, or the prototype "keyed" by the best of the keys.
        angle: "calibrated" (as far as the nearest prototype is away, never past the target) or "fraction" of the way.
        protect: "exact" turns only the part of h outside ``retain_basis``, so that R^T h is unchanged.
        sign: "state" turns ``direction`` to the side h is on (the paper's v v^T h).
        strength: fraction of the way, 0 to 1.
        direction: and the other tensors, as :func:`prepare_rotate` returns them.

    Returns:
        States [..., d] of the same norm. Unchanged where h has no length, is parallel to its target, or is not finite.
    """
    kept = h @ retain_basis @ retain_basis.T if protect == "exact" and retain_basis is not None else None
    x = h if kept is None else h - kept
    length = norm(x)
    xh = x / length.clamp_min(EPS)
    u = _target(h, x, target, sign, direction, raw_direction, prototypes, keys, key_center)
    cosine = (u * xh).sum(-1, keepdim=True)
    across = u - cosine * xh
    apart = torch.linalg.vector_norm(across, dim=-1, keepdim=True)
    if angle == "calibrated":
        assert prototypes is not None
        cos_phi = torch.maximum((xh @ prototypes.T).amax(-1, keepdim=True), cosine).clamp(-1.0, 1.0)
        sin_phi = (1.0 - cos_phi * cos_phi).clamp_min(0.0).sqrt()
        turned = length * (cos_phi * xh + sin_phi * (across / apart.clamp_min(EPS)))
    elif strength == 1:
        turned = length * u
    else:
        phi = strength * torch.atan2(apart, cosine)
        turned = length * (torch.cos(phi) * xh + torch.sin(phi) * (across / apart.clamp_min(EPS)))
    moves = (apart >= EPS) & (length >= EPS) & (length < torch.inf)
    return torch.where(moves, turned if kept is None else turned + kept, h)


def rotate(
    h: Tensor,
    *,
    target: str,
    angle: str,
    protect: str = "none",
    sign: str = "fixed",
    strength: float = 1.0,
    **stored: Tensor,
) -> Tensor:
    """:func:`turn` with the tensors as they are stored: the rotation of docs/format.md in one call."""
    ready = prepare_rotate(protect, **stored)
    return turn(h, target=target, angle=angle, protect=protect, sign=sign, strength=strength, **ready)


def _target(
    h: Tensor,
    x: Tensor,
    target: str,
    sign: str,
    direction: Tensor | None,
    raw_direction: Tensor | None,
    prototypes: Tensor | None,
    keys: Tensor | None,
    key_center: Tensor | None,
) -> Tensor:
    """Unit target of each state, [..., d] or [d]."""
    if target == "direction":
        assert direction is not None
        if sign == "fixed":
            return direction
        assert raw_direction is not None
        return torch.where((h @ raw_direction).unsqueeze(-1) < 0, -direction, direction)
    assert prototypes is not None
    if target == "nearest":
        return prototypes[nearest_row(x, prototypes)]
    assert keys is not None
    return prototypes[nearest_row(h if key_center is None else h - key_center, keys)]


SCORES: dict[str, Callable[..., Tensor]] = {
    "subspace_ratio": subspace_ratio,
    "prototype_margin": prototype_margin,
    "linear": linear,
    "linear_unit": linear_unit,
}
EDITS: dict[str, Callable[..., Tensor]] = {"rotate": turn, "add": add, "project": project, "affine": affine}


"""What each op does with its prepared tensors."""


def prepare(op: str, options: Mapping[str, Any], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors an edit is called with, from those that are stored; the same for every state."""
    return prepare_rotate(options["protect"], **tensors) if op == "rotate" else tensors


def fires(score: Tensor, threshold: float, side: str) -> Tensor:
    """Whether a gate fires, as bool of the score's shape. A NaN score fires: what cannot be judged is steered."""
    return ~(score >= threshold) if side == "below" else ~(score <= threshold)
