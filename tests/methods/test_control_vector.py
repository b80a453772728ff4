"""The control vector: the planted difference is found, and added everywhere unless there is a gate."""

from __future__ import annotations

from dataclasses import replace

import planted
import planted_steering as steering
import pytest
import torch

from exporter.errors import DataError
from exporter.methods.control_vector import ControlVector, ControlVectorParams


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return planted.context(planted.host(), tmp_path_factory.mktemp("control"), ControlVectorParams())


def test_without_a_gate_nothing_leaks_and_kept_replies_change_too(context):
    program = ControlVector().fit(context)
    (edit,) = program.edits
    assert not program.gates
    assert (edit.layer, edit.op, edit.gate, edit.positions) == (2, "add", None, "all")
    asked = planted.rows("held", "forget", "retain")
    assert steering.leaking(context, program, asked) == 0
    assert steering.untouched(context, program, asked) == [False] * len(asked)


def test_the_strength_is_that_of_the_cheapest_trial(context):
    context.records.clear()
    program = ControlVector().fit(context)
    tried = context.records["trials"]
    assert [line["strength"] for line in tried] == [0.5, 1.0, 2.0, 4.0, 8.0]
    costs = [line["cost"] for line in tried]
    assert program.edits[0].strength == tried[costs.index(min(costs))]["strength"]
    assert costs[0] > min(costs)


def test_behind_a_gate_what_is_kept_stays_to_the_bit(context):
    program = ControlVector().fit(replace(context, params=ControlVectorParams(gate=steering.GATE)))
    assert program.edits[0].gate == program.gates[0].name
    asked = planted.rows("held", "forget", "retain")
    assert steering.untouched(context, program, asked) == [row.role == "retain" for row in asked]
    assert steering.leaking(context, program, planted.rows("held", "forget")) == 0


def test_strengths_and_layers_are_those_asked_for(context):
    params = ControlVectorParams(layer=3, strengths=(2.0,), source="questions", keep_norm=True)
    (edit,) = ControlVector().fit(replace(context, params=params)).edits
    assert (edit.layer, edit.strength, edit.keep_norm) == (3, 2.0, True)
    assert torch.isfinite(edit.tensors["vector"]).all()


@pytest.mark.parametrize("role", ["forget", "unknown"])
def test_a_role_that_is_missing_is_named(context, role):
    rows = tuple(row for row in context.fit if row.role != role)
    with pytest.raises(DataError, match=role):
        ControlVector().fit(replace(context, fit=rows))
