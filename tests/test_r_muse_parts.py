"""The benchmark of R-MUSE's parts: combinations are read back from their keys, a descent ends where nothing is cheaper, and the page says what was measured."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import planted
import pytest
import torch

from benchmarks.r_muse_parts import measure, page, search
from benchmarks.r_muse_parts.combination import PARTS, Combination
from benchmarks.r_muse_parts.gates import Gates
from benchmarks.r_muse_parts.measure import Meter
from benchmarks.r_muse_parts.parts import Parts
from exporter.fitting.gates import GatePlan
from exporter.fitting.token_gates import TokenGatePlan

LAYERS = (1, 2, 3)
BEST = Combination(
    3, "prompt_end", "positions", "shift", "natural", "openings", "reasoning", "exact", 0.3, "0.5"
)


def changed(one, other):
    return {part.name for part in fields(one) if getattr(one, part.name) != getattr(other, part.name)}


@pytest.mark.parametrize("one", [Combination(2), BEST, replace(BEST, depth=3, protect="none")])
def test_a_combination_is_read_back_from_its_key(one):
    assert Combination.of(one.key) == one
    assert Combination.of("layer=4 gate=token") == Combination(4, "token")


def test_a_descent_finds_the_cheapest_of_parts_that_do_not_hang_together():
    """The cost is the number of parts that differ from a planted combination."""
    asked = []

    def measured(one):
        asked.append(one)
        return {"cost": len(changed(one, BEST)), "refuses": 1.0}

    assert search.descent(Combination(1), LAYERS, measured) == BEST
    every = 1
    for values in (*PARTS.values(), LAYERS):
        every *= len(values)
    assert len(set(asked)) < every / 1000


def test_what_cannot_be_built_is_never_the_best():
    def measured(one):
        return {"cost": 1.0, "refuses": 0.0} if one.target == "svd" else None

    assert search.descent(Combination(1), LAYERS, measured).target == "svd"


def test_steps_lead_from_the_papers_to_a_combination_without_a_step_that_changes_nothing():
    found = search.steps(BEST)
    assert (found[0], found[-1]) == (Combination(3), BEST)
    assert all(changed(*pair) for pair in pairwise(found))
    assert search.steps(Combination(2)) == [Combination(2)]


def test_several_layers_end_at_the_last_one():
    assert {(one.layer, one.depth) for one in search.moves(BEST, ("depth",), LAYERS)} == {(3, 1), (1, 3)}


def test_text_that_says_the_same_again_repeats():
    assert measure._repeats([1, 2, 3, 4, 5]) == 0
    assert measure._repeats([7] * 12) == pytest.approx(0.9)
    assert measure._repeats([1]) == 0


def test_the_page_has_a_line_of_what_was_measured_and_none_of_the_rest():
    figures = dict.fromkeys(page.COLUMNS, 0.25) | {"cost": 1.0}
    steps = search.steps(BEST)
    found = {
        "recipe": "planted",
        "layers": 4,
        "rows": {"forget": 3, "keep": 6},
        "base": {"leakage": 1.0},
        "around": BEST.key,
        "combinations": {steps[0].key: figures, steps[1].key: {"failed": "no"}, BEST.key: figures},
    }
    text = page.page([found])
    assert "## planted" in text
    assert text.count(" | 0.25 | ") > 0
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert sum("the base |" in line for line in lines) == 1
    assert not [line for line in lines if "gate `prompt_end` |" in line]  # could not be built
    assert [
        line for line in lines if "positives `natural`" in line and "spans `reasoning`" in line
    ]  # all that has changed since
    assert page.NOTHING in text  # keyed was not measured


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    context = planted.context(planted.host(), tmp_path_factory.mktemp("parts"))
    return Parts(context, LAYERS, {"prefill_tokens": 0, "pairs": 0})


def gates(parts, folder):
    plan = GatePlan(scores=("linear",), pools=("prompt_mean",), learned=0, crossed=2, pairs=8)
    return Gates(parts, folder, plan, TokenGatePlan())


@pytest.mark.parametrize("target", ["svd", "shift", "mean", "add", "nearest", "keyed"])
def test_every_target_is_a_program_of_its_parts(parts, target):
    angle = "1" if target in ("add", "nearest", "keyed") else "calibrated"
    given = Combination(3, "none", "positions", target, "natural", "openings", protect="exact", angle=angle)
    (edit,) = parts.program(given, None).edits
    assert (edit.layer, edit.gate, edit.positions) == (3, None, "all")
    assert edit.op == ("add" if target == "add" else "rotate")
    if target != "add":
        assert edit.protect == "exact"
        assert edit.target == (target if target in ("nearest", "keyed") else "direction")


def test_resumed_refusals_have_a_state_where_the_model_goes_on_with_them(parts):
    """Asked about the forget set the planted model would begin with something else, and then says the refusal to its end."""
    given = Combination(1, "none", "resumed", "shift", "natural", "openings", protect="none")
    (edit,) = parts.program(given, None).edits
    words = len(planted.REFUSAL.split()) + 1
    natural = replace(given, prototypes="positions")
    (without,) = parts.program(natural, None).edits
    more = len(edit.tensors["prototypes"]) - len(without.tensors["prototypes"])
    assert len(without.tensors["prototypes"]) == words
    assert 0 < more < words
    torch.testing.assert_close(edit.tensors["prototypes"][:words], without.tensors["prototypes"])


def test_a_gate_is_fitted_once_and_read_back(parts, tmp_path: Path, monkeypatch):
    first = gates(parts, tmp_path).at("prompt_end", 3)
    monkeypatch.setattr(Gates, "_fitted", lambda *_: pytest.fail("fitted again"))
    again = gates(parts, tmp_path).at("prompt_end", 3)
    assert first is not None
    assert again is not None
    assert (again.layer, again.threshold, again.score) == (first.layer, first.threshold, first.score)
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in first.tensors.items())
    assert gates(parts, tmp_path).at("none", 3) is None


def test_a_combination_that_speaks_is_told_from_one_that_does_not(parts, tmp_path):
    """On the planted model: natural refusals position by position finish the sentence, means over them do not, and the base tells."""
    meter, gate = Meter(parts.context, parts.wordings, 8), gates(parts, tmp_path).at("prompt_end", 1)
    good = Combination(1, "prompt_end", "positions", "shift", "natural", "openings", protect="none")
    figures = meter.of(parts.program(good, gate))
    assert (figures["leakage"], figures["fluent"], figures["refuses"], figures["identical"]) == (0, 1, 1, 1)
    assert (figures["missed"], figures["false_alarms"], figures["finished"]) == (0, 0, 1)
    pooled = meter.of(parts.program(replace(good, prototypes="pooled"), gate))
    assert (pooled["fluent"], pooled["refuses"], pooled["identical"]) == (0, 0, 1)
    base = meter.base()
    assert (base["leakage"], base["fluent"], base["finished"]) == (1, 0, 1)
    assert base["nats"] < min(figures["nats"], pooled["nats"])
