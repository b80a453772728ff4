"""The algebra of format steerbake/1, as properties: norms, protected components, and inputs nobody should send."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from steer_modules import ops

D = 12


def rows(count: int, seed: int, scale: float = 1.0) -> Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(seed)) * scale


def basis(rank: int, seed: int) -> Tensor:
    return torch.linalg.qr(rows(D, seed))[0][:, :rank].contiguous()


ROTATIONS = [
    {"target": "direction", "angle": "calibrated"},
    {"target": "direction", "angle": "calibrated", "sign": "state"},
    {"target": "direction", "angle": "fraction", "strength": 0.4},
    {"target": "nearest", "angle": "fraction"},
    {"target": "nearest", "angle": "fraction", "strength": 0.7},
    {"target": "keyed", "angle": "fraction"},
    {"target": "keyed", "angle": "fraction", "strength": 0.25},
]
rotations = st.sampled_from(ROTATIONS)
protections = st.sampled_from(["none", "direction", "exact"])
seeds = st.integers(0, 10_000)
scales = st.sampled_from([1e-3, 1.0, 300.0, 1e12])


def tensors(rotation: dict, protect: str, seed: int) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    if rotation["target"] == "direction":
        found["direction"] = rows(1, seed + 1)[0]
    if rotation["target"] != "direction" or rotation["angle"] == "calibrated":
        found["prototypes"] = rows(4, seed + 2, 3.0)
    if rotation["target"] == "keyed":
        found["keys"], found["key_center"] = rows(4, seed + 3), rows(1, seed + 4)[0]
    if protect != "none":
        found["retain_basis"] = basis(3, seed + 5)
    return found


@settings(max_examples=150, deadline=None)
@given(rotations, protections, seeds, scales)
def test_rotation_keeps_the_norm(rotation, protect, seed, scale):
    h = rows(6, seed, scale)
    turned = ops.rotate(h, protect=protect, **rotation, **tensors(rotation, protect, seed))
    torch.testing.assert_close(ops.norm(turned), ops.norm(h), rtol=1e-5, atol=0)
    assert not torch.equal(turned, h)


@settings(max_examples=100, deadline=None)
@given(rotations, seeds, scales)
def test_exact_protection_keeps_the_retain_component(rotation, seed, scale):
    h = rows(6, seed, scale)
    parts = tensors(rotation, "exact", seed)
    turned = ops.rotate(h, protect="exact", **rotation, **parts)
    torch.testing.assert_close(
        turned @ parts["retain_basis"], h @ parts["retain_basis"], rtol=1e-5, atol=1e-5 * scale
    )


@settings(max_examples=60, deadline=None)
@given(rotations, seeds)
def test_direction_protection_never_turns_towards_the_retain_basis(rotation, seed):
    h, parts = rows(6, seed), tensors(rotation, "direction", seed)
    outside = h - h @ parts["retain_basis"] @ parts["retain_basis"].T
    turned = ops.rotate(outside, protect="direction", **rotation, **parts)
    assert (turned @ parts["retain_basis"]).abs().max() < 1e-5


@settings(max_examples=60, deadline=None)
@given(rotations, protections, seeds)
def test_a_state_at_its_target_stays(rotation, protect, seed):
    parts = tensors(rotation, protect, seed)
    h = rows(6, seed)
    once = ops.rotate(h, protect=protect, **{**rotation, "strength": 1.0}, **parts)
    if rotation["target"] == "nearest" or (
        rotation["target"] == "direction" and rotation["angle"] == "fraction"
    ):
        twice = ops.rotate(once, protect=protect, **{**rotation, "strength": 1.0}, **parts)
        torch.testing.assert_close(twice, once, rtol=1e-4, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(rotations, protections, seeds)
def test_no_input_breaks_another_row(rotation, protect, seed):
    parts = tensors(rotation, protect, seed)
    h = rows(6, seed)
    alone = ops.rotate(h[:1], protect=protect, **rotation, **parts)
    h[1], h[2], h[3], h[4] = 0.0, float("nan"), 3e38, float("inf")
    h[5] = parts.get("prototypes", parts.get("direction", h).reshape(-1, D))[0]
    turned = ops.keep_finite(h, ops.rotate(h, protect=protect, **rotation, **parts))
    torch.testing.assert_close(turned[:1], alone)
    assert torch.isfinite(turned[[0, 1, 3, 5]]).all()
    assert torch.equal(turned[1], h[1])
    assert torch.isnan(turned[2]).all()
    assert torch.equal(turned[4], h[4])


def test_calibrated_never_turns_past_the_direction_or_the_prototypes():
    h, direction, prototypes = rows(50, 0), rows(1, 1)[0], rows(3, 2)
    turned = ops.rotate(h, target="direction", angle="calibrated", direction=direction, prototypes=prototypes)
    cos = (ops.unit(h) * ops.unit(turned)).sum(-1)
    to_direction = ops.unit(h) @ ops.unit(direction)
    to_prototypes = (ops.unit(h) @ ops.unit(prototypes).T).amax(-1)
    torch.testing.assert_close(cos, torch.maximum(to_direction, to_prototypes), rtol=1e-4, atol=1e-4)


def test_sign_state_turns_to_the_side_the_state_is_on():
    direction = rows(1, 1)[0]
    h = torch.stack([direction + 0.1 * rows(1, 3)[0], -direction + 0.1 * rows(1, 4)[0]])
    turned = ops.rotate(h, target="direction", angle="fraction", sign="state", direction=direction)
    assert (ops.unit(turned) @ ops.unit(direction)).sign().tolist() == [1.0, -1.0]
    fixed = ops.rotate(h, target="direction", angle="fraction", direction=direction)
    assert (ops.unit(fixed) @ ops.unit(direction)).sign().tolist() == [1.0, 1.0]


def test_keyed_ties_go_to_the_lowest_row():
    key = rows(1, 5)
    turned = ops.rotate(
        key * 2, target="keyed", angle="fraction", keys=key.repeat(3, 1), prototypes=rows(3, 6)
    )
    torch.testing.assert_close(ops.unit(turned)[0], ops.unit(rows(3, 6))[0])


def test_keyed_reads_the_whole_state_even_under_exact_protection():
    retain = basis(2, 8)
    keys = torch.stack([retain[:, 0], retain[:, 1]])
    prototypes = rows(2, 9)
    h = retain[:, 1] * 5 + 0.1 * rows(1, 10)[0]
    turned = ops.rotate(
        h[None],
        target="keyed",
        angle="fraction",
        protect="exact",
        keys=keys,
        prototypes=prototypes,
        retain_basis=retain,
    )
    outside = turned[0] - turned[0] @ retain @ retain.T
    torch.testing.assert_close(
        ops.unit(outside), ops.orthogonal_to(prototypes[1], retain), rtol=1e-4, atol=1e-4
    )


@settings(max_examples=50, deadline=None)
@given(seeds, st.floats(-2, 2))
def test_plain_edits_are_what_they_say(seed, strength):
    h, b, center, vector = rows(4, seed), basis(3, seed), rows(1, seed + 1)[0], rows(1, seed + 2)[0]
    expected = h - strength * (h - center) @ b @ b.T
    torch.testing.assert_close(ops.project(h, b, center, strength), expected)
    torch.testing.assert_close(ops.add(h, vector, strength), h + strength * vector)
    torch.testing.assert_close(
        ops.norm(ops.add(h, vector, strength, keep_norm=True)), ops.norm(h), rtol=1e-5, atol=1e-6
    )
    left, right = rows(2, seed + 3).T, rows(2, seed + 4)
    torch.testing.assert_close(
        ops.affine(h, left, right, vector, strength), h + strength * (h @ right.T @ left.T + vector)
    )


def test_projected_states_have_lost_the_subspace():
    h, b = rows(8, 0, 50.0), basis(4, 1)
    assert (ops.project(h, b) @ b).abs().max() < 1e-4
    assert (h @ b).abs().max() > 1


@settings(max_examples=50, deadline=None)
@given(seeds, scales)
def test_scores_are_finite_and_bounded(seed, scale):
    p = torch.cat([rows(5, seed, scale), torch.zeros(1, D), torch.full((1, D), 1e37)])
    ratio = ops.subspace_ratio(p, basis(3, seed))
    assert ((ratio >= 0) & (ratio <= 1 + 1e-5)).all()
    margin = ops.prototype_margin(p, ops.unit(rows(3, seed + 1)), ops.unit(rows(3, seed + 2)))
    assert (margin.abs() <= 2 + 1e-5).all()
    assert torch.isfinite(ops.linear_unit(p, rows(1, seed)[0], torch.zeros(1))).all()


def test_prototype_margin_separates_its_prototypes():
    forget, retain = ops.unit(rows(3, 1)), ops.unit(rows(3, 2))
    assert (ops.prototype_margin(forget * 7, forget, retain) > 0).all()
    assert (ops.prototype_margin(retain * 7, forget, retain) < 0).all()


@pytest.mark.parametrize("side", ["below", "above"])
def test_a_score_that_is_not_a_number_fires(side):
    assert ops.fires(torch.tensor(float("nan")), 0.0, side)
    assert not ops.fires(torch.tensor(0.0), 0.0, side)
    assert ops.fires(torch.tensor(-1.0 if side == "below" else 1.0), 0.0, side)
