"""Calibrated R-MUSE: the direction is the planted shift and points along it, and what is to be kept survives."""

from __future__ import annotations

import planted
import planted_contrasts as contrasts
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exporter.fitting.gates import GatePlan
from exporter.methods import r_muse_calibrated
from exporter.methods.r_muse_calibrated import RMuseCalibrated, RMuseCalibratedParams
from exporter.types import Encoded
from steer_modules import ops
from steer_modules.attach import steered

PARAMS = RMuseCalibratedParams(
    layers=(1, 2),
    gate=GatePlan(
        scores=("linear", "prototype_margin"), pools=("prompt_mean",), learned=0, crossed=2, pairs=8
    ),
)


def edit(protect, shift=4.0, spread=0.2, seed=1):
    forget = contrasts.forget(seed, shift, spread)
    return r_muse_calibrated._edit(forget, contrasts.retain(4), 1, protect, PARAMS)


def turned(protect, states):
    one = edit(protect)
    return ops.rotate(states, target=one.target, angle=one.angle, protect=one.protect, **one.tensors)


def cosine(a, b):
    return (ops.unit(a) * ops.unit(b)).sum(-1)


@pytest.mark.parametrize("shift", [4.0, -4.0])
@pytest.mark.parametrize("spread", [0.0, 0.2, 1.0])
def test_the_direction_is_the_shift_with_its_sign(shift, spread):
    for seed in range(1, 40, 3):
        direction = edit("none", shift, spread, seed).tensors["direction"]
        assert float(cosine(direction, contrasts.SHIFT)) * shift > 0.9 * abs(shift)


@pytest.mark.parametrize("protect", ["none", "direction", "exact"])
def test_memories_are_read_before_and_not_after_and_the_control_still_is(protect):
    states, controls = contrasts.memories(50)
    refusals, again = contrasts.memories(60, side=4.0)
    both = torch.cat([states, refusals])
    memory = planted.probe(both, torch.arange(len(both)) // len(states))
    control = planted.probe(both, torch.cat([controls, again]))
    held, planted_there = contrasts.memories(51)
    remembered = torch.zeros(len(held), dtype=torch.long)
    after = turned(protect, held)
    assert planted.accuracy(memory, held, remembered) == 1.0
    assert planted.accuracy(memory, after, remembered) < 0.05
    assert planted.accuracy(control, held, planted_there) == 1.0
    assert planted.accuracy(control, after, planted_there) > 0.98


@given(st.integers(0, 1000), st.floats(0.01, 100.0))
def test_exact_protection_touches_the_retain_subspace_by_rounding_alone(seed, scale):
    h = scale * contrasts.noise(seed, 30, contrasts.D)
    basis = edit("exact").tensors["retain_basis"]
    left, free = turned("exact", h), turned("none", h)
    torch.testing.assert_close(left @ basis, h @ basis, rtol=1e-4, atol=1e-5 * scale)
    assert float((free @ basis - h @ basis).abs().max()) > 1e-2 * scale


@given(st.integers(0, 1000))
def test_no_state_is_turned_farther_than_its_nearest_refusal(seed):
    h = contrasts.noise(seed, 30, contrasts.D)
    one = edit("none")
    moved = cosine(h, turned("none", h))
    nearest = cosine(h[:, None], one.tensors["prototypes"]).amax(1)
    aim = cosine(h, one.tensors["direction"])
    torch.testing.assert_close(moved, torch.maximum(nearest, aim), rtol=0, atol=1e-3)


def test_protection_is_left_out_where_none_is_asked_for():
    assert "retain_basis" not in edit("none").tensors
    assert edit("direction").protect == "direction"


# --- the whole fit, on the planted model ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return planted.context(planted.host(), tmp_path_factory.mktemp("calibrated"), PARAMS)


@pytest.fixture(scope="module")
def program(context):
    return RMuseCalibrated().fit(context)


def test_the_program_is_the_one_that_the_documents_describe(context, program):
    (gate,), (edit,) = program.gates, program.edits
    assert (edit.op, edit.target, edit.angle, edit.sign) == ("rotate", "direction", "calibrated", None)
    assert (edit.gate, gate.pool, edit.positions) == (gate.name, "prompt_mean", "from_gate")
    assert gate.layer <= edit.layer
    tried = context.records["trials"]
    assert [(line["layers"], line["protect"]) for line in tried] == [
        ([layer], protect) for layer in (1, 2) for protect in ("none", "exact")
    ]
    best = min(tried, key=lambda line: line["cost"])
    assert (best["layers"], best["protect"]) == ([edit.layer], edit.protect)
    best_gate = next(line for line in context.records["gates"] if line["layer"] <= edit.layer)
    assert (gate.layer, gate.score) == (best_gate["layer"], best_gate["score"])


def test_the_gate_tells_the_forgotten_and_leaves_the_others_as_they_are_to_the_bit(context, program):
    host, asked = context.host, planted.rows("held", "forget", "retain")
    prompts = [Encoded(context.chat.prompt(row)) for row in asked]

    def logits():
        with torch.no_grad():
            return [host.model(**host.batch([one], "right")).logits for one in prompts]

    before = logits()
    with steered(host.model, program):
        after = logits()
    same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert same == [row.role == "retain" for row in asked]


def test_layers_where_none_are_given(tmp_path, monkeypatch):
    """A third, a half, two thirds of the way and the last."""
    asked = []

    def contrast(_context, _rows, *given, **_keys):
        asked.append(list(given[-1]))
        return {layer: contrasts.forget(layer) for layer in given[-1]}

    monkeypatch.setattr(r_muse_calibrated, "forget_contrast", contrast)
    monkeypatch.setattr(r_muse_calibrated, "retain_contrast", contrast)
    given = planted.states_context(tmp_path, lambda *_: None, planted.rows(), layers=12)
    edits = list(RMuseCalibrated()._edits(given, RMuseCalibratedParams(), []))
    assert asked == [[4, 6, 8, 11]] * 2
    assert [(edit.layer, edit.protect) for edit in edits[:3]] == [(4, "none"), (4, "exact"), (6, "none")]
