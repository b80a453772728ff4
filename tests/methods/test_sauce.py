"""SAUCE: the features of what is to be forgotten are found, and the affine edit is the paper's shift as far as it can be."""

from __future__ import annotations

from dataclasses import replace

import planted
import planted_steering as steering
import pytest
import torch

from exporter.errors import FitError
from exporter.fitting.sparse_autoencoder import SparseAutoencoder, SparsePlan, learn_features
from exporter.methods.sauce import (
    Sauce,
    SauceParams,
    active_shift,
    concept_features,
    fitted_shift,
    measured,
)
from steer_modules import ops

PARAMS = SauceParams(autoencoder=SparsePlan(features=64, active=6, steps=300), gate=steering.GATE)
D = 16
AXES = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(0)))[0]
CENTER = torch.randn(D, generator=torch.Generator().manual_seed(1))


def planted_features(active=D):
    """An autoencoder whose features are orthogonal axes, so that each reads itself alone."""
    return SparseAutoencoder(AXES.T.contiguous(), torch.full((D,), -0.1), AXES, CENTER, active)


def states(on, seed, n=50):
    """States in which the given axes are on, and noise is off below the threshold of the others."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.zeros(n, D)
    sizes[:, on] = 1.0 + torch.rand(n, len(on), generator=generator)
    return CENTER + sizes @ AXES.T + 0.01 * torch.randn(n, D, generator=generator)


def test_the_features_of_the_forget_set_alone_are_found():
    learned = planted_features()
    forget, retain = (learned.features(states(on, 2)) for on in ([1, 4, 7], [1, 9]))
    assert sorted(concept_features(forget, retain, 2).tolist()) == [4, 7]
    assert 1 not in concept_features(forget, retain, 2) and 9 not in concept_features(forget, retain, 8)


def test_without_a_feature_of_its_own_nothing_can_be_found():
    """The control: both sides alike."""
    same = planted_features().features(states([1, 4], 2))
    with pytest.raises(FitError, match="feature"):
        concept_features(same, same, 4)


def test_where_the_features_are_on_the_edit_is_the_papers():
    """h + Dec(z') - Dec(z), z' with the features of S times gamma."""
    learned, concept, gamma = planted_features(), torch.tensor([4, 7]), -2.0
    h = states([1, 4, 7], 3)
    scaled = learned.features(h)
    before = scaled @ learned.decoder.T
    scaled[:, concept] *= gamma
    wanted = h + scaled @ learned.decoder.T - before
    got = ops.affine(h, **active_shift(learned, concept), strength=gamma - 1.0)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_the_error_is_none_where_they_are_on_and_seen_where_they_are_not():
    learned, concept = planted_features(), torch.tensor([4, 7])
    forget, retain = states([1, 4, 7], 3), states([1, 9], 4)
    line = measured(learned, concept, active_shift(learned, concept), forget, retain)
    assert line["forget_error"] < 1e-3
    assert line["forget_active"] == 1.0
    assert line["retain_active"] == line["retain_shift"] == 0.0
    assert line["retain_error"] > 1.0
    mixed = torch.cat([forget, states([1, 9], 5)])
    assert measured(learned, concept, active_shift(learned, concept), mixed, retain)["forget_error"] > 0.05


def test_fitted_features_err_less_where_some_are_off():
    """In a learned autoencoder features share directions, and most are off in most states."""
    generator = torch.Generator().manual_seed(5)
    rows = torch.cat([states([one, two], one * D + two, 20) for one in range(D) for two in range(one)])
    learned = learn_features(rows, SparsePlan(features=24, active=2, steps=300), seed=0)
    order = torch.randperm(len(rows), generator=generator)
    held, fit = rows[order[:800]], rows[order[800:]]
    concept = torch.tensor([0, 1, 2])
    shifts = active_shift(learned, concept), fitted_shift(learned, concept, fit, fit, 0.01)
    active, fitted = (measured(learned, concept, one, held, held)["forget_error"] for one in shifts)
    assert fitted < active
    assert fitted < 1.0


# --- the whole fit, on the planted model ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return planted.context(planted.host(), tmp_path_factory.mktemp("sauce"), PARAMS)


@pytest.fixture(scope="module")
def program(context):
    return Sauce().fit(context)


def test_the_program_is_the_one_that_the_documents_describe(context, program):
    (gate,), (edit,) = program.gates, program.edits
    assert (edit.layer, edit.op, edit.gate, edit.positions) == (2, "affine", gate.name, "from_gate")
    assert edit.tensors["right"].shape[0] <= PARAMS.concept
    tried = context.records["trials"]
    costs = [line["cost"] for line in tried]
    assert edit.strength == tried[costs.index(min(costs))]["scale"] - 1.0


def test_the_reading_that_errs_less_is_taken_and_both_are_reported(context, program):
    lines = {line["reading"]: line for line in context.records["sauce"]}
    assert set(lines) == {"active", "fitted"}
    assert lines["fitted"]["forget_error"] < 0.5 < lines["active"]["forget_error"]
    assert lines["fitted"]["forget_explained"] > 0.8
    concept = torch.tensor(lines["fitted"]["features"])
    assert program.edits[0].tensors["left"].shape == (planted.WIDTH, len(concept))


def test_nothing_leaks_and_what_is_kept_stays_to_the_bit(context, program):
    asked = planted.rows("held", "forget", "retain")
    assert steering.untouched(context, program, asked) == [row.role == "retain" for row in asked]
    assert steering.leaking(context, program, planted.rows("held", "forget")) == 0


def test_rows_under_the_wrong_roles_leave_the_forgotten_alone(context):
    splits = {
        split: tuple(steering.with_roles(list(getattr(context, split)), forget="retain", retain="forget"))
        for split in ("fit", "calibrate")
    }
    found = Sauce().fit(replace(context, **splits))
    asked = planted.rows("held", "forget")
    assert steering.untouched(context, found, asked) == [True] * len(asked)


def test_without_a_gate_everything_is_moved(context):
    params = PARAMS.model_copy(update={"gate": None, "layer": 1, "scales": (0.0,)})
    found = Sauce().fit(replace(context, params=params))
    (edit,) = found.edits
    assert (edit.layer, edit.gate, edit.positions, edit.strength) == (1, None, "all", -1.0)
    asked = planted.rows("held", "retain")
    assert not any(steering.untouched(context, found, asked))
