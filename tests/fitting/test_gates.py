"""The search over layers, pools and scores ends at the planted half-space, and errs there as often as its closed form says."""

from __future__ import annotations

import math

import planted
import pytest
import torch
from pydantic import ValidationError

from exporter.errors import FitError
from exporter.fitting.calibrate import gate_scores
from exporter.fitting.gates import GatePlan, choose_gates, gate_below
from exporter.fitting.refusals import Wording
from exporter.types import Row
from steer_modules import ops
from steer_modules.attach import steered

ABOUT, OTHERS, STRANGERS = range(100, 160), range(200, 320), range(400, 410)
HEADER = "84 85"
AXIS = planted.heard("ada")
REFUSAL = [Wording((9, 2), None, "9")]
QUICK = {"learned": 0, "crossed": 0, "pairs": 0}


def draw(about, seed, distance):
    noise = torch.randn(planted.WIDTH, generator=torch.Generator().manual_seed(seed))
    return noise + (distance if about else -distance) * AXIS


def planted_at(layer, distance):
    """States of unit noise around either side of a plane, at one layer where headers end; noise alone elsewhere."""

    def state(sequence, column, at):
        ids = sequence.prompt.ids
        seed = ids[0] * 977 + 31 * column + at + (7919 if len(ids) > 3 else 0)
        return draw(ids[0] in ABOUT, seed, distance if at == layer and column == len(ids) - 1 else 0.0)

    return state


def rows(split):
    """Half of the numbers for either split."""
    sides = {"forget": ABOUT, "retain": OTHERS, "unknown": STRANGERS}
    half = slice(0, None, 2) if split == "fit" else slice(1, None, 2)
    return [
        Row(f"{role}{number}", f"{number} {HEADER}", "7", role)
        for role, side in sides.items()
        for number in side[half]
    ]


def context(folder, state):
    return planted.states_context(folder, state, rows("fit"), rows("calibrate"), layers=3)


@pytest.mark.parametrize("distance", [3.0, 5.0])
def test_the_planted_half_space_is_found_and_errs_as_it_must(distance, tmp_path):
    given = context(tmp_path, planted_at(1, distance))
    best = choose_gates(given, GatePlan(**QUICK), REFUSAL)[0].gate
    assert (best.layer, best.pool) == (1, "prompt_end")
    about = torch.arange(2000) % 2 == 0
    states = torch.stack([draw(bool(side), 10**6 + n, distance) for n, side in enumerate(about)])
    fired = ops.fires(gate_scores(best, states), best.threshold, best.fires)
    wrong = float((fired != about).float().mean())
    least = 0.5 * math.erfc(distance / math.sqrt(2))
    assert least - 0.005 <= wrong <= least + 0.06


def test_where_nothing_is_planted_no_gate_is_good(tmp_path):
    found = choose_gates(context(tmp_path, planted_at(1, 0.0)), GatePlan(**QUICK), REFUSAL)
    assert min(one.cost for one in found) > 0.5


def test_every_candidate_is_recorded_best_first(tmp_path):
    given = context(tmp_path, planted_at(1, 5.0))
    plan = GatePlan(scores=("linear", "prototype_margin"), **{**QUICK, "learned": 1})
    found = choose_gates(given, plan, REFUSAL)
    assert [one.line() for one in found] == given.records["gates"]
    assert [one.cost for one in found] == sorted(one.cost for one in found)
    tried = [(one.gate.layer, one.gate.pool, one.line()["score"]) for one in found]
    plain = {(layer, pool, score) for layer in range(3) for pool in plan.pools for score in plan.scores}
    learned = [one for one in tried if one[2] == "prototype_margin_learned"]
    assert set(tried) - set(learned) == plain
    assert len(tried) == len(plain) + 2
    assert (1, "prompt_end", "prototype_margin_learned") in learned
    assert {pool for _, pool, _ in learned} == set(plan.pools)


def test_the_best_gate_at_or_below_a_layer(tmp_path):
    found = choose_gates(context(tmp_path, planted_at(1, 5.0)), GatePlan(**QUICK), REFUSAL)
    assert gate_below(found, 2) is found[0].gate
    assert gate_below(found, 1) is found[0].gate
    assert gate_below(found, 0).layer == 0
    assert gate_below(found, 0) is next(one.gate for one in found if one.gate.layer == 0)


def test_a_plan_hands_on_how_many_decisions_are_drawn():
    points = GatePlan(rows=7, crossed=3, pairs=5).decision_points
    assert (points.rows, points.crossed, points.pairs) == (7, 3, 5)


@pytest.mark.parametrize("keys", [{"pools": ("token",)}, {"rows": 1}, {"learnt": 2}])
def test_plans_that_cannot_be_are_refused(keys):
    with pytest.raises(ValidationError, match=next(iter(keys))):
        GatePlan(**keys)


def test_people_are_told_apart_in_a_model_that_knows_them(tmp_path):
    """On the planted model, in words that neither split has: those to forget alone, and of later turns by who is asked about."""
    given = planted.context(planted.host(), tmp_path)
    plan = GatePlan(scores=("linear", "prototype_margin"), learned=0, pairs=24, crossed=2)
    gate = choose_gates(given, plan, [Wording((), None, planted.REFUSAL)])[0].gate
    chat, host = given.chat, given.host
    for split in ("held", "fit"):
        asked = planted.rows(split)
        with steered(host.model, given.program("x", [gate], planted.refusing(given, None).edits)):
            said = host.generate([chat.prompt(row) for row in asked], max_new_tokens=1)
        assert [one.gates["topic"] for one in said] == [float(row.role == "forget") for row in asked]


def test_a_gate_reads_only_the_layers_that_are_given(tmp_path):
    given = context(tmp_path, planted_at(1, 5.0))
    found = choose_gates(given, GatePlan(layers=(2, 1), **QUICK), REFUSAL)
    whole = choose_gates(given, GatePlan(**QUICK), REFUSAL)
    assert {one.gate.layer for one in found} == {1, 2}
    assert [one.line() for one in found] == [one.line() for one in whole if one.gate.layer > 0]
    with pytest.raises(FitError, match="layers"):
        gate_below(found, 0)


@pytest.mark.parametrize("shift", [0.3, -0.3])
def test_a_shifted_gate_fires_more_or_less_and_is_measured_where_it_stands(tmp_path, shift):
    given = context(tmp_path, planted_at(1, 1.0))
    plain, moved = (
        {
            (one.gate.layer, one.gate.pool): one
            for one in choose_gates(given, GatePlan(scores=("linear",), shift=by, **QUICK), REFUSAL)
        }
        for by in (0.0, shift)
    )
    for place, one in moved.items():
        before = plain[place]
        assert (one.gate.threshold < before.gate.threshold) == (shift > 0)
        more, less = ("false_alarms", "missed") if shift > 0 else ("missed", "false_alarms")
        assert getattr(one, more) >= getattr(before, more) and getattr(one, less) <= getattr(before, less)
    assert any(one.cost > plain[place].cost for place, one in moved.items())
