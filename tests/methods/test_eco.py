"""ECO: the earliest gate that does, noise of the state's own length, and replies that are spoiled only behind the gate."""

from __future__ import annotations

from dataclasses import replace

import planted
import planted_steering as steering
import pytest
import torch

from exporter.fitting.calibrate import Candidate
from exporter.fitting.token_gates import TokenGatePlan
from exporter.methods.eco import Eco, EcoParams, earliest, noise
from steer_modules import ops
from steer_modules.program import Gate

PARAMS = EcoParams(gate=steering.GATE.model_copy(update={"pools": ("prompt_mean", "prompt_end")}))


def candidate(layer, missed, margin):
    gate = Gate("topic", layer, "prompt_end", "linear", 0.0, "above")
    return Candidate(gate, missed, 0.0, margin, torch.zeros(1))


def test_the_first_layer_that_is_about_as_good():
    ranked = [
        candidate(4, 0.0, 0.5),
        candidate(2, 0.005, 0.4),
        candidate(2, 0.01, 0.9),
        candidate(0, 0.2, 0.1),
    ]
    assert earliest(ranked, 0.0) is ranked[0].gate
    assert earliest(ranked, 0.02) is ranked[1].gate
    assert earliest(ranked, 1.0) is ranked[3].gate


def test_noise_is_as_long_as_the_state_and_differs_from_state_to_state():
    states = torch.randn(400, 256, generator=torch.Generator().manual_seed(1))
    tensors = noise(256, 8, seed=3)
    assert torch.linalg.matrix_rank(tensors["left"] @ tensors["right"]) == 8
    shift = ops.affine(states, **tensors) - states
    ratio = shift.norm(dim=1) / states.norm(dim=1)
    assert 0.7 < float(ratio.mean()) < 1.3
    assert float((ops.unit(shift[:200]) * ops.unit(shift[200:])).sum(1).abs().mean()) < 0.5
    assert torch.equal(noise(256, 8, seed=3)["left"], tensors["left"])
    assert not torch.equal(noise(256, 8, seed=4)["left"], tensors["left"])


# --- the whole fit, on the planted model ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return planted.context(planted.host(), tmp_path_factory.mktemp("eco"), PARAMS)


@pytest.fixture(scope="module")
def program(context):
    return Eco().fit(context)


def test_the_gate_is_the_earliest_and_the_edit_stands_where_it_reads(context, program):
    (gate,), (edit,) = program.gates, program.edits
    good = [line["layer"] for line in context.records["gates"] if line["missed"] + line["false_alarms"] == 0]
    assert gate.layer == edit.layer == min(good)
    assert (edit.op, edit.gate, edit.positions) == ("affine", gate.name, "from_gate")
    assert edit.tensors["left"].shape == (planted.WIDTH, 8)


def test_nothing_leaks_and_what_is_kept_stays_to_the_bit(context, program):
    asked = planted.rows("held", "forget", "retain")
    assert steering.untouched(context, program, asked) == [row.role == "retain" for row in asked]
    assert steering.leaking(context, program, planted.rows("held", "forget")) == 0


def test_the_least_noise_that_costs_least_is_taken(context, program):
    tried = context.records["trials"][: len(PARAMS.strengths)]
    costs = [line["cost"] for line in tried]
    assert program.edits[0].strength == PARAMS.strengths[costs.index(min(costs))]


def test_too_little_noise_spoils_nothing(context):
    """The control: the gate alone does not do it."""
    found = Eco().fit(replace(context, params=PARAMS.model_copy(update={"strengths": (1e-4,)})))
    assert steering.leaking(context, found, planted.rows("held", "forget")) == len(planted.FORGET)


def test_rows_under_the_wrong_roles_spoil_others(context):
    splits = {
        split: tuple(steering.with_roles(list(getattr(context, split)), forget="retain", retain="forget"))
        for split in ("fit", "calibrate")
    }
    found = Eco().fit(replace(context, **splits))
    asked = planted.rows("held", "forget")
    assert steering.untouched(context, found, asked) == [True] * len(asked)


def test_a_gate_that_reads_every_column_may_stand_in_its_place(context):
    subject = TokenGatePlan(layers=(1,), rows=11, forget=0, keep=0, unknown=0, replies=0, rank=8, steps=5)
    params = EcoParams(subject=subject, strengths=(1.0,))
    found = Eco().fit(replace(context, params=params))
    (gate,) = found.gates
    assert (gate.pool, gate.layer, found.edits[0].layer) == ("token", 1, 1)
