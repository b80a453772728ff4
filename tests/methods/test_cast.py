"""CAST: the planted condition is found early, the behaviour vector leads to refusals, and nothing else is touched."""

from __future__ import annotations

from dataclasses import replace

import planted
import planted_steering as steering
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.fitting.decision_points import DecisionPointPlan
from exporter.fitting.gates import calibrated
from exporter.fitting.refusals import wordings
from exporter.methods.cast import Cast, CastParams, condition_gates
from steer_modules import ops

PARAMS = CastParams(pairs=8)


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def similarity(p, c):
    """The paper's."""
    return torch.cosine_similarity(p, torch.tanh(torch.outer(c, c) @ p / (c @ c)), dim=0)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000))
def test_the_score_is_the_papers_similarity_without_the_tanh(seed):
    """Where the projection is small the tanh does nothing; and neither sees the sign."""
    p, c = noise(seed, 24), noise(seed + 1, 24)
    basis = ops.unit(c)[:, None]
    for side in (1.0, -1.0):
        got = ops.subspace_ratio(side * p, basis)
        assert abs(float(got - similarity(side * 1e-3 * p, c))) < 1e-4


@pytest.mark.parametrize("pool", ["prompt_mean", "prompt_end"])
def test_the_condition_is_the_planted_one_and_tells_calibration_prompts_apart(tmp_path, pool):
    context = steering.states_context(tmp_path, None)
    params = CastParams(pools=(pool,), pairs=0)
    drafts = condition_gates(context, [0, 1], params)
    assert len(drafts) == 2 * 2 * 2
    aim = steering.axis("topic") - steering.axis("kept")
    for draft in drafts:
        tensor = draft.tensors.get("weight", draft.tensors.get("basis"))
        assert steering.cosine(tensor.flatten(), aim) > 0.95
    plan = DecisionPointPlan(rows=100, crossed=0, pairs=0)
    best = calibrated(context, drafts, plan, wordings(context))[0]
    assert (best.missed, best.false_alarms) == (0.0, 0.0)
    assert best.gate.fires == "above"


def test_prompts_of_one_kind_cannot_be_told_apart(tmp_path):
    """The control: rows to forget and rows to keep that are about the same."""
    rows = [
        replace(row, role="forget" if number % 2 else "retain") if row.role != "unknown" else row
        for number, row in enumerate(steering.numeral_rows())
    ]
    context = steering.states_context(tmp_path, None, rows)
    plan = DecisionPointPlan(rows=100, crossed=0, pairs=0)
    drafts = condition_gates(context, [0, 1], CastParams(pools=("prompt_end",)))
    for draft in drafts:
        tensor = draft.tensors.get("weight", draft.tensors.get("basis"))
        assert abs(steering.cosine(tensor.flatten(), steering.axis("topic"))) < 0.9
    held = replace(context, calibrate=tuple(rows))
    assert calibrated(held, drafts, plan, wordings(context))[0].cost > 0.2


# --- the whole fit, on the planted model ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return planted.context(planted.host(), tmp_path_factory.mktemp("cast"), PARAMS)


@pytest.fixture(scope="module")
def program(context):
    return Cast().fit(context)


def test_the_program_is_the_one_that_the_documents_describe(context, program):
    (gate,), (edit,) = program.gates, program.edits
    assert (edit.layer, edit.op, edit.gate, edit.positions) == (2, "add", "condition", "from_gate")
    assert gate.layer <= 2
    assert gate.score in ("subspace_ratio", "linear_unit")
    tried = context.records["trials"]
    costs = [line["cost"] for line in tried]
    assert edit.strength == PARAMS.strengths[costs.index(min(costs))]
    assert context.records["gates"][0]["threshold"] == gate.threshold


def test_nothing_leaks_and_what_is_kept_stays_to_the_bit(context, program):
    asked = planted.rows("held", "forget", "retain")
    assert steering.untouched(context, program, asked) == [row.role == "retain" for row in asked]
    assert steering.leaking(context, program, planted.rows("held", "forget")) == 0


def test_rows_under_the_wrong_roles_leave_the_forgotten_alone(context):
    """The control: a fit that is told to forget the kept."""
    splits = {
        split: tuple(steering.with_roles(list(getattr(context, split)), forget="retain", retain="forget"))
        for split in ("fit", "calibrate")
    }
    found = Cast().fit(replace(context, **splits))
    asked = planted.rows("held", "forget")
    assert steering.untouched(context, found, asked) == [True] * len(asked)


def test_layers_and_similarity_are_those_asked_for(context):
    params = CastParams(
        layers=(1, 3), condition_layers=(0,), similarities=("subspace_ratio",), pairs=8, strengths=(1.0,)
    )
    found = Cast().fit(replace(context, params=params))
    assert [edit.layer for edit in found.edits] == [1, 3]
    assert {(gate.layer, gate.score) for gate in found.gates} == {(0, "subspace_ratio")}


@pytest.mark.parametrize(
    ("keys", "wrong"),
    [({}, 0), ({"layers": (0,)}, 0), ({"condition_layers": (0, 3)}, 1), ({"condition_layers": (-1,)}, 1)],
)
def test_a_condition_above_its_edit_is_objected_to(keys, wrong):
    found = [line.partition(":")[0] for line in Cast.objections(CastParams(**keys), 4)]
    assert found == ["condition_layers"] * wrong
