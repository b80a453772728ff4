"""A gate learned on planted half-spaces errs about as often as no gate can help to, and not at all on what it was told to ignore."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exporter.fitting.calibrate import gate_scores
from exporter.fitting.learned_prototypes import LearningPlan, clustered, learn_prototypes
from exporter.fitting.subspaces import unit
from steer_modules.program import Gate

D = 10
QUICK = LearningPlan(forget=4, keep=6, steps=200, batch=128)
AXIS = unit(torch.linspace(-1.0, 1.5, D))
WORDING = unit(torch.linspace(2.0, -1.0, D) - AXIS * float(torch.linspace(2.0, -1.0, D) @ AXIS))


def half_spaces(seed, distance=2.0, n=600, wording=0.0):
    """Two clouds of unit noise, ``distance`` from the plane between them, spread by ``wording`` along another direction."""
    generator = torch.Generator().manual_seed(seed)
    forget = torch.arange(n) % 3 == 0
    sides = torch.where(forget, distance, -distance)[:, None]
    spread = wording * torch.randn(n, 1, generator=generator)
    return sides * AXIS + spread * WORDING + torch.randn(n, D, generator=generator), forget


def learned(states, forget, *, weights=None, seed=0, plan=QUICK):
    weights = torch.ones(len(states)) if weights is None else weights
    return learn_prototypes(states, forget, forget.long(), weights, plan=plan, seed=seed)


def errors(rows, states, forget):
    """Misses and false alarms of a margin of 0."""
    gate = Gate("topic", 0, "prompt_end", "prototype_margin", 0.0, "above", rows.tensors())
    fired = gate_scores(gate, states) > 0
    return float((~fired)[forget].float().mean()), float(fired[~forget].float().mean())


@pytest.mark.parametrize("distance", [1.5, 2.5])
@pytest.mark.parametrize("wording", [0.0, 40.0])
def test_held_out_errors_are_near_the_closed_form(distance, wording):
    """No gate errs less than Phi(-distance) on both sides; this one not much more, whatever the wording is."""
    least = 0.5 * math.erfc(distance / math.sqrt(2))
    rows = learned(*half_spaces(1, distance, wording=wording))
    missed, false_alarms = errors(rows, *half_spaces(2, distance, n=3000, wording=wording))
    assert missed + false_alarms >= 2 * least - 0.02
    assert missed < least + 0.05
    assert false_alarms < least + 0.05


def test_where_nothing_is_planted_nothing_is_learned():
    rows = learned(*half_spaces(1, 0.0))
    assert sum(errors(rows, *half_spaces(2, 0.0, n=3000))) > 0.85


def test_only_wordings_within_a_class_are_told_from_subjects():
    """The control of the metric: where every row is a class of its own, the wording misleads the prototypes."""
    plan = LearningPlan(forget=4, keep=6, steps=1, batch=8, rate=1e-9)
    (states, forget), held = half_spaces(1, 1.5, wording=40.0), half_spaces(2, 1.5, n=3000, wording=40.0)
    found = {
        name: learn_prototypes(states, forget, classes, torch.ones(len(states)), plan=plan, seed=0)
        for name, classes in (("subjects", forget.long()), ("rows", torch.arange(len(states))))
    }
    assert sum(errors(found["subjects"], *held)) < 0.2
    assert sum(errors(found["rows"], *held)) > 0.25


def test_rows_that_weigh_nothing_teach_nothing():
    """A third of the kept rows bear the wrong label; told that they weigh little, the gate is right all the same."""
    states, forget = half_spaces(1, 2.5, n=900)
    wrong = forget & (torch.arange(900) % 9 == 0)
    labels = forget & ~wrong
    light = torch.where(wrong, 1e-6, 1.0)
    heavy = torch.where(wrong, 30.0, 1.0)
    held = half_spaces(2, 2.5, n=3000)
    assert errors(learned(states, labels, weights=light), *held)[0] < 0.06
    assert errors(learned(states, labels, weights=heavy), *held)[0] > 0.1


def test_shapes_units_and_the_same_seed():
    states, forget = half_spaces(1)
    first, second, other = (learned(states, forget, seed=seed).tensors() for seed in (0, 0, 1))
    assert {name: tuple(one.shape) for name, one in first.items()} == {
        "center": (D,),
        "metric": (D, D),
        "forget_prototypes": (4, D),
        "retain_prototypes": (6, D),
    }
    for side in ("forget_prototypes", "retain_prototypes"):
        torch.testing.assert_close(first[side].norm(dim=1), torch.ones(len(first[side])))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["forget_prototypes"], other["forget_prototypes"])
    few = learned(*half_spaces(1, n=6), plan=LearningPlan(steps=2, batch=4))
    assert len(few.forget) == 2
    assert len(few.keep) == 4


def clusters(seed, count, each=40):
    """Rows around ``count`` orthogonal axes, in no order; and which axis each is of."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(D, count, generator=generator))[0].T
    own = torch.arange(count).repeat_interleave(each)[torch.randperm(count * each, generator=generator)]
    return unit(axes[own] + 0.05 * torch.randn(len(own), D, generator=generator)), axes


def test_planted_clusters_are_found():
    """With twice as many centres as axes every axis has one, whatever rows they start from."""
    rows, axes = clusters(1, 3)
    centres = clustered(rows, 8, torch.Generator().manual_seed(0))
    assert bool(((axes @ centres.T).amax(1) > 0.99).all())
    assert bool(((centres @ axes.T).amax(1) > 0.95).all())


@given(st.integers(0, 1000), st.integers(1, 9))
def test_rounds_bring_centres_nearer_to_their_rows(seed, count):
    rows, _ = clusters(seed, 4, each=12)

    def nearness(rounds):
        centres = clustered(rows, count, torch.Generator().manual_seed(seed), rounds=rounds)
        assert centres.shape == (count, D)
        torch.testing.assert_close(centres.norm(dim=1), torch.ones(count), rtol=0, atol=1e-5)
        return float((rows @ centres.T).amax(1).mean())

    before, once, after = nearness(0), nearness(1), nearness(8)
    assert before <= once + 1e-5
    assert once <= after + 1e-5


def test_a_centre_that_loses_its_rows_stays():
    rows = torch.eye(D)[[0, 0, 0, 1]]
    centres = clustered(rows, 4, torch.Generator().manual_seed(0))
    assert bool((centres.norm(dim=1) == 1).all())
    assert sorted(centres.argmax(1).tolist()) == [0, 0, 0, 1]
