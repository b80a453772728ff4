"""The gate search finds what was planted, and chooses on calibration rows alone."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.errors import FitError
from exporter.fitting.calibrate import (
    MISS_COST,
    SCORES,
    Decisions,
    best_threshold,
    discriminant,
    gate_scores,
    moved_threshold,
    search_gates,
    spread_rows,
)
from steer_modules import ops

D = 12
PLANTED = 2
POOLS = ("prompt_end", "prompt_mean")


def decisions(seed, n=60, planted=PLANTED, strength=12.0, subjects=6):
    """States at 4 layers; every third row is about the forgotten, which only one layer of one pool knows."""
    generator = torch.Generator().manual_seed(seed)
    states = {pool: torch.randn(n, 4, D, generator=generator) for pool in POOLS}
    forget = torch.arange(n) % 3 == 0
    states["prompt_end"][forget, planted, 1] += strength
    return Decisions(states, forget, torch.arange(n) % subjects, torch.ones(n))


def search(fit, calibrate, **keys):
    return search_gates(fit, calibrate, layers=range(4), **keys)


def fires(gate, states):
    return ops.fires(gate_scores(gate, states), gate.threshold, gate.fires)


@pytest.mark.parametrize("score", SCORES)
def test_a_planted_subject_is_found(score):
    held = decisions(3)
    best = search(decisions(1), decisions(2), scores=(score,))[0]
    assert (best.gate.layer, best.gate.pool) == (PLANTED, "prompt_end")
    assert best.cost == 0
    assert best.margin > 0
    assert (
        float((fires(best.gate, held.states["prompt_end"][:, PLANTED]) == held.forget).float().mean()) > 0.95
    )
    assert best.line()["score"] == score


def test_every_layer_pool_and_score_is_tried():
    found = search(decisions(1), decisions(2))
    tried = {(c.gate.layer, c.gate.pool, c.line()["score"]) for c in found}
    assert len(tried) == len(found) == 4 * len(POOLS) * len(SCORES)
    keys = [(round(c.cost, 9), -c.margin) for c in found]
    assert keys == sorted(keys)


def test_what_is_measured_is_what_the_gate_does():
    held = decisions(2, strength=2.0)
    for candidate in search(decisions(1, strength=2.0), held):
        fired = fires(candidate.gate, held.states[candidate.gate.pool][:, candidate.gate.layer])
        assert candidate.missed == pytest.approx(float((~fired)[held.forget].float().mean()))
        assert candidate.false_alarms == pytest.approx(float(fired[~held.forget].float().mean()))


def test_threshold_and_choice_come_from_the_calibration_rows():
    """The fit rows know the forgotten at layer 2 alone, the calibration rows at layer 1 too, and better there."""
    fit, held = decisions(1), decisions(2, strength=0.0)
    fit.states["prompt_end"][fit.forget, 1, 1] += 12.0
    assert search(fit, decisions(2))[0].gate.layer == PLANTED
    held.states["prompt_end"][held.forget, 1, 1] += 12.0
    assert search(fit, held)[0].gate.layer == 1


def test_the_threshold_moves_with_the_calibration_rows_and_the_tensors_do_not():
    fit, held = decisions(1), decisions(2)
    moved = replace(held, states={pool: t.clone() for pool, t in held.states.items()})
    moved.states["prompt_end"][:, PLANTED, 1] += 4.0
    one, two = (search(fit, rows, scores=("linear",)) for rows in (held, moved))
    gates = [
        next(c.gate for c in found if (c.gate.layer, c.gate.pool) == (PLANTED, "prompt_end"))
        for found in (one, two)
    ]
    assert gates[1].threshold > gates[0].threshold
    assert torch.equal(gates[0].tensors["weight"], gates[1].tensors["weight"])


def test_ties_go_to_the_lowest_layer_then_score_then_pool():
    states = torch.zeros(8, 4, D)
    forget = torch.arange(8) < 4
    states[forget, :, 0], states[~forget, :, 0] = 1.0, -1.0
    states[:, :, 1] = 0.25 * torch.tensor([1.0, -1.0] * 4).unsqueeze(1)
    same = Decisions(dict.fromkeys(POOLS, states), forget, torch.arange(8), torch.ones(8))
    found = search(same, same, scores=("linear", "linear_unit"))
    order = [(c.gate.layer, c.line()["score"], c.gate.pool) for c in found if c.line()["score"] == "linear"]
    assert order == sorted(order)
    again = search(same, same, scores=("linear", "linear_unit"))
    assert [c.line() for c in again] == [c.line() for c in found]


def test_the_same_rows_give_the_same_bytes():
    one, two = (search(decisions(1), decisions(2)) for _ in range(2))
    for a, b in zip(one, two, strict=True):
        assert a.line() == b.line()
        assert all(torch.equal(a.gate.tensors[name], b.gate.tensors[name]) for name in a.gate.tensors)


def test_bad_requests_are_refused():
    with pytest.raises(FitError, match=r"\['cosine'\]; .*prototype_margin"):
        search(decisions(1), decisions(2), scores=("cosine",))
    rows = decisions(1)
    for sides in (torch.zeros(60, dtype=torch.bool), torch.ones(60, dtype=torch.bool)):
        with pytest.raises(FitError, match="forget rows and retain rows"):
            replace(rows, forget=sides)


def cost_at(threshold, values, forget, weights):
    fired = values > threshold
    mass = weights.double()
    missed = float((mass * (forget & ~fired)).sum() / (mass * forget).sum())
    alarms = float((mass * (~forget & fired)).sum() / (mass * ~forget).sum())
    return missed, alarms


FLOATS = st.one_of(
    st.integers(-4, 4).map(float),
    st.floats(-1e6, 1e6, width=32),
    st.sampled_from([1.0, 1.0 + 2**-23, 1.0 + 2**-22, 1.0 - 2**-24]),
)
CASES = st.lists(
    st.tuples(FLOATS, st.booleans(), st.sampled_from([0.25, 0.5, 1.0, 0.3])), min_size=2, max_size=12
).filter(lambda rows: len({side for _, side, _ in rows}) == 2)


@settings(deadline=None, max_examples=300)
@given(CASES)
def test_no_threshold_does_better(rows):
    values, weights = (torch.tensor([row[i] for row in rows], dtype=torch.float32) for i in (0, 2))
    forget = torch.tensor([row[1] for row in rows])
    threshold, missed, alarms, margin = best_threshold(values, forget, weights)
    assert cost_at(threshold, values, forget, weights) == pytest.approx((missed, alarms), abs=1e-6)
    tried = sorted({*values.tolist(), float(values.min()) - 1.0})
    costs = [cost_at(one, values, forget, weights) for one in tried]
    least = min(MISS_COST * misses + false for misses, false in costs)
    assert MISS_COST * missed + alarms == pytest.approx(least, abs=1e-6)
    assert (margin > 0) == (float(values[forget].min()) > float(values[~forget].max()))


@settings(deadline=None)
@given(CASES)
def test_the_order_of_the_rows_does_not_matter(rows):
    def run(chosen):
        columns = [torch.tensor([row[i] for row in chosen]) for i in range(3)]
        return best_threshold(columns[0].float(), columns[1], columns[2])

    assert run(rows) == pytest.approx(run(rows[::-1]))


def test_of_equal_cuts_the_widest_gap_is_taken():
    values = torch.tensor([0.0, 1.0, 5.0, 6.0])
    forget = torch.tensor([False, False, True, True])
    assert best_threshold(values, forget, torch.ones(4))[:3] == (3.0, 0.0, 0.0)


def test_equal_scores_are_never_told_apart():
    values, forget = torch.full((4,), 0.5), torch.tensor([True, False, True, False])
    threshold, missed, alarms, margin = best_threshold(values, forget, torch.ones(4))
    assert missed + alarms == 1.0
    assert cost_at(threshold, values, forget, torch.ones(4)) == (missed, alarms)
    assert margin == -1.0


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.floats(0.05, 0.9))
def test_the_discriminant_weighs_both_sides_alike(seed, share):
    generator = torch.Generator().manual_seed(seed)
    forget = torch.arange(200) < max(int(200 * share), 4)
    states = torch.randn(200, D, generator=generator)
    states[forget, 0] += 12.0
    weight, bias = discriminant(states, forget)
    assert weight.shape == (D,) and bias.shape == (1,)
    assert bool(((states @ weight + bias > 0) == forget).all())


@given(st.integers(1, 40), st.integers(1, 40))
def test_spread_rows_are_at_most_so_many_and_distinct(count, most):
    kept = spread_rows(torch.arange(count).float().unsqueeze(1), most)[:, 0].tolist()
    assert len(kept) == min(count, most)
    assert kept == sorted(set(kept))


def test_a_threshold_moves_by_distances_of_the_medians_and_what_it_misses_is_counted_there():
    values = torch.tensor([0.0, 1.0, 2.0, 8.0, 10.0, 12.0])
    forget = torch.tensor([False, False, False, True, True, True])
    weights = torch.tensor([1.0, 1.0, 2.0, 1.0, 1.0, 2.0])
    assert moved_threshold(values, forget, weights, 5.0, 0.0) == (5.0, 0.0, 0.0)
    assert moved_threshold(values, forget, weights, 5.0, -0.5) == (9.5, 0.25, 0.0)
    assert moved_threshold(values, forget, weights, 5.0, 0.4) == pytest.approx((1.4, 0.0, 0.5))
