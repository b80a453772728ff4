"""The parts of a stock layer: functionals that survive rounding, layers that are renumbered, edits that units reproduce."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exporter.targets.stock.checks import Check, held_out_estimate
from exporter.targets.stock.edit import exact_edit, run_units, solve_units
from exporter.targets.stock.gate_classifier import Decisions
from exporter.targets.stock.layers import balanced
from exporter.targets.stock.shards import places, renumbered
from exporter.targets.stock.solvers import normalised, one_against_rest, ridge
from steer_modules.program import Edit

D = 48


@given(st.integers(1, 40), st.dictionaries(st.integers(0, 40), st.integers(1, 3), max_size=3))
def test_layers_behind_move_and_nothing_else(count, added):
    """Old and new layers together are numbered without a gap, the old ones in their order, each new one behind its own."""
    added = {after: some for after, some in added.items() if after < count}
    names = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(count)]
    moved = [int(renumbered(name, "model.layers.", added).split(".")[2]) for name in names]
    new = places({after: [None] * some for after, some in added.items()})
    assert sorted([*moved, *new]) == list(range(count + sum(added.values())))
    assert moved == sorted(moved)
    for after, some in added.items():
        assert {moved[after] + 1 + number for number in range(some)} <= set(new)
    for other in ("model.norm.weight", "vision.layers.3.x", "model.layers_3.x"):
        assert renumbered(other, "model.layers.", added) == other


@given(st.integers(0, 10_000), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_rounding_leaves_nothing_at_the_first_token(seed, dtype):
    """A sink's state is huge along few coordinates, where a rounded weight would leave a rest larger than any evidence."""
    draw = torch.Generator().manual_seed(seed)
    sink = torch.randn(D, generator=draw).double() / 10
    sink[seed % D] = 20.0
    w = torch.randn(D, generator=draw).double()
    w = w - (w @ sink) / (sink @ sink) * sink
    found = balanced(w, sink, dtype)
    assert torch.equal(found.to(dtype).double(), found)
    assert abs(float(found @ sink)) < 1e-3
    assert float((found - w).norm() / w.norm()) < 0.02


@given(st.integers(0, 10_000))
def test_ridge_is_least_squares(seed):
    draw = torch.Generator().manual_seed(seed)
    rows, wanted = torch.randn(60, 5, generator=draw).double(), torch.randn(5, generator=draw).double()
    assert torch.allclose(ridge(rows, rows @ wanted, torch.ones(60).double(), 1e-9), wanted, atol=1e-6)


def test_separators_tell_classes_apart():
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 6, generator=draw).double() * 5
    classes = torch.arange(80) % 4
    rows = torch.cat([centres[classes] + torch.randn(80, 6, generator=draw) / 5, torch.ones(80, 1)], dim=1)
    w = one_against_rest(rows, classes, 4, torch.full((7,), 1e-3).double())
    assert torch.equal((rows @ w).argmax(1), classes)
    assert torch.equal((rows @ w > 0).sum(1), torch.ones(80, dtype=torch.long))


def _bed() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """States around an offset, their flagged counterparts, and a constant functional."""
    draw = torch.Generator().manual_seed(1)
    states = torch.randn(600, D, generator=draw)
    states[:, 3] += 12
    states[:, 0] = 0
    flagged = states.double().clone()
    flagged[:, 0] = 256.0
    x = normalised(states, 1e-6)
    constant = ridge(x, torch.ones(600).double(), torch.ones(600).double(), 0.1)
    return states, flagged, constant


EDITS = {
    "add": {"op": "add", "strength": 2.0, "tensors": {"vector": torch.linspace(-1, 1, D)}},
    "project": {"op": "project", "strength": 1.0, "tensors": {"basis": torch.eye(D)[:, 5:8].contiguous()}},
    "affine": {
        "op": "affine",
        "strength": 0.5,
        "tensors": {"left": torch.eye(D)[:, :2], "right": torch.eye(D)[7:9], "bias": torch.ones(D)},
    },
}


@pytest.mark.parametrize("name", EDITS)
def test_units_make_affine_edits_and_are_off_without_the_flag(name):
    states, flagged, constant = _bed()
    edit = Edit(layer=0, gate="g", positions="from_gate", **EDITS[name])
    off = normalised(states, 1e-6)
    units = solve_units(edit, states, flagged, [off], constant, 0, 4 * D, 1e-6)
    fresh = states.flip(0) + 0.05 * torch.randn(600, D, generator=torch.Generator().manual_seed(2))
    fresh[:, 0] = 0
    raised = fresh.double().clone()
    raised[:, 0] = 256.0
    made = raised + run_units(normalised(raised, 1e-6), units.gate, units.up) @ units.down.T
    exact = exact_edit(edit, fresh)
    assert float((made - exact).norm() / exact.norm()) < 0.02
    idle = run_units(off, units.gate, units.up) @ units.down.T
    assert torch.equal(states + idle.float(), states)


def test_a_table_is_looked_up():
    states, flagged, constant = _bed()
    centres = torch.randn(3, D, generator=torch.Generator().manual_seed(4))
    states[:, 10:] += 3 * centres[torch.arange(600) % 3][:, 10:]
    flagged[:, 1:] = states[:, 1:].double()
    center = states.mean(0)
    keys = torch.stack([states[i::3].mean(0) - center for i in range(3)])
    rows = torch.randn(3, D, generator=torch.Generator().manual_seed(5))
    tensors = {"keys": keys, "key_center": center, "prototypes": rows}
    edit = Edit(
        layer=0,
        gate="g",
        op="rotate",
        positions="from_gate",
        strength=1.0,
        target="keyed",
        angle="fraction",
        protect="none",
        tensors=tensors,
    )
    units = solve_units(edit, states, flagged, [normalised(states, 1e-6)], constant.clone(), 0, 4 * D, 1e-6)
    assert units.agreement > 0.99
    assert units.error < 0.1


def test_evidence_that_misses_rows_it_never_saw_is_refused():
    good, bad = (Decisions(recall, alarms, {}) for recall, alarms in ((0.95, 0.05), (0.85, 0.2)))
    assert all(check.holds for check in held_out_estimate(good))
    assert not any(check.holds for check in held_out_estimate(bad))


def test_a_check_says_what_was_measured_and_what_to_do():
    check = Check("recall", 0.5, 0.9, True, "add rows")
    assert not check.holds
    assert all(part in check.sentence() for part in ("recall is 0.5", "at least 0.9", "add rows"))
    assert Check("alarms", 0.0, 0.01, False, "add rows").holds
