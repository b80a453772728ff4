"""Scores are those of the columns that a gate reads, sorted by the role of their rows."""

from __future__ import annotations

import planted
import pytest
import torch

from exporter.fitting.prompt_scores import prompt_scores
from exporter.types import Row, Turn
from steer_modules.program import Edit, Gate, SteeringProgram

A, B = 84, 85
WEIGHT = torch.zeros(planted.WIDTH)
WEIGHT[0] = 1.0


def state(sequence, column, layer):
    """The first coordinate is what a gate along WEIGHT reads: the token, and its layer in hundreds."""
    found = torch.zeros(planted.WIDTH)
    found[0] = sequence.prompt.ids[column] + 100 * layer
    return found


ROWS = [
    Row("f", f"5 9 {A} {B} 3", "7", "forget"),
    Row("r", f"1 {A} {B}", "7", "retain"),
    Row("g", f"2 {A} {B}", "7", "retain", history=(Turn(f"40 {A} {B}", "41"),)),
    Row("open", f"2 {A} {B}", "7", "retain", history=(Turn("40"),)),
]


def gate(name, pool, layer=0, fires="above"):
    tensors = {"weight": WEIGHT, "bias": torch.tensor([0.5])}
    return Gate(name, layer, pool, "linear", 0.0, fires, tensors)


def program(context, *gates):
    names = tuple(one.name for one in gates)
    edit = Edit(
        1,
        names if len(gates) > 1 else names[0],
        "add",
        "from_gate",
        1.0,
        keep_norm=False,
        tensors={"vector": WEIGHT},
    )
    return context.program("test", gates, [edit])


def test_every_pool_reads_its_own_columns(tmp_path):
    given = planted.states_context(tmp_path, state, [])
    asked = program(given, gate("all", "token"), gate("end", "prompt_end", 1), gate("mean", "prompt_mean"))
    found = prompt_scores(given, asked, ROWS, "scores")
    assert found == {
        "all": {"forget": [85.5], "retain": [85.5, 85.5]},
        "end": {"forget": [185.5], "retain": [185.5, 185.5]},
        "mean": {
            "forget": [pytest.approx((5 + 9 + A + B) / 4 + 0.5)],
            "retain": [
                pytest.approx((1 + A + B) / 3 + 0.5),
                pytest.approx((40 + 41 + 2 + 2 * (A + B)) / 7 + 0.5),
            ],
        },
    }


def test_the_column_nearest_to_firing_is_the_least_where_a_gate_fires_below(tmp_path):
    given = planted.states_context(tmp_path, state, [])
    found = prompt_scores(given, program(given, gate("all", "token", fires="below")), ROWS[:2], "scores")
    assert found == {"all": {"forget": [3.5], "retain": [1.5]}}


def test_further_layers_are_read_in_the_same_pass(tmp_path, monkeypatch):
    given = planted.states_context(tmp_path, state, [])
    asked = []
    collect = type(given).collect
    monkeypatch.setattr(
        type(given), "collect", lambda self, *args: asked.append(args[1]) or collect(self, *args)
    )
    one = program(given, gate("end", "prompt_end", 1))
    assert prompt_scores(given, one, ROWS, "s", [0, 1]) == prompt_scores(given, one, ROWS, "s")
    assert asked == [[0, 1], [1]]


def test_nothing_asked_nothing_scored(tmp_path):
    given = planted.states_context(tmp_path, state, [])
    one = program(given, gate("end", "prompt_end"))
    assert prompt_scores(given, one, [], "s") == {}
    assert prompt_scores(given, one, ROWS[3:], "s") == {}
    bare = Edit(1, None, "add", "all", 1.0, keep_norm=False, tensors={"vector": WEIGHT})
    assert (
        prompt_scores(given, SteeringProgram("x", planted.WIDTH, 2, one.base, (), (bare,)), ROWS, "s") == {}
    )


def test_of_a_model_the_scores_tell_who_is_planted(tmp_path):
    given = planted.context(planted.host(), tmp_path)
    found = prompt_scores(given, planted.refusing(given, planted.FORGET), planted.rows("held"), "s")["topic"]
    assert min(found["forget"]) > 0 > max(found["retain"] + found["unknown"])
