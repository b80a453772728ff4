"""GUARD-IT: planted clusters are found, states move along the paper's circle, and only what is near a cluster is guarded."""

from __future__ import annotations

from dataclasses import replace

import planted
import planted_steering as steering
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from exporter.methods.guardit import GuardIt, GuardItParams, away_from, cluster_means
from exporter.types import Encoded
from steer_modules import ops

D, PARAMS = 24, GuardItParams(pairs=8, layer=2)


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


CENTRES = 4.0 * torch.linalg.qr(noise(0, D, 3))[0].T
STATES = torch.cat([centre + 0.2 * noise(seed, 30, D) for seed, centre in enumerate(CENTRES, start=1)])


def test_the_planted_clusters_are_found():
    found = cluster_means(STATES, 3, seed=2)
    assert found.shape == (3, D)
    nearest = (ops.unit(found) @ ops.unit(CENTRES).T).amax(0)
    assert float(nearest.min()) > 0.99
    one = cluster_means(STATES, 1, seed=2)
    torch.testing.assert_close(one[0], STATES.mean(0))
    assert len(cluster_means(STATES[:2], 8, seed=0)) <= 2


def test_v_has_no_part_along_the_retain_mean():
    kept = noise(5, D)
    found = away_from(CENTRES, kept)
    assert float((found @ kept).abs().max()) < 1e-4
    assert bool(((found * CENTRES).sum(1) < 0).all())
    along = ops.unit(kept)
    torch.testing.assert_close(-found + (CENTRES @ along)[:, None] * along, CENTRES)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.floats(0.05, 20.0))
def test_every_a_is_some_fraction_of_the_rotation(seed, a):
    """(h - a v)|h|/|h - a v| and the format's rotation to -v run along one circle."""
    h, v = noise(seed, D), noise(seed + 1, D)
    wanted = (h - a * v) * h.norm() / (h - a * v).norm()

    def angle(one, other):
        return float(
            torch.atan2((ops.unit(one) - ops.unit(other)).norm(), (ops.unit(one) + ops.unit(other)).norm())
        )

    fraction = min(angle(h, wanted) / angle(h, -v), 1.0)
    got = ops.rotate(
        h,
        target="keyed",
        angle="fraction",
        strength=fraction,
        keys=ops.unit(v)[None],
        prototypes=-v[None],
    )
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)


# --- the whole fit, on the planted model ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return planted.context(planted.host(), tmp_path_factory.mktemp("guardit"), PARAMS)


@pytest.fixture(scope="module")
def program(context):
    return GuardIt().fit(context)


def test_the_program_is_the_one_that_the_documents_describe(program):
    (edit,) = program.edits
    assert (edit.layer, edit.op, edit.target, edit.angle) == (2, "rotate", "keyed", "fraction")
    assert edit.gate == tuple(gate.name for gate in program.gates)
    assert {(gate.layer, gate.pool, gate.score, gate.fires) for gate in program.gates} == {
        (2, "prompt_end", "linear_unit", "above")
    }
    assert len({gate.threshold for gate in program.gates}) == 1
    weights = torch.stack([gate.tensors["weight"] for gate in program.gates])
    assert torch.equal(weights, edit.tensors["keys"])


def test_nothing_leaks_and_what_is_kept_stays_to_the_bit(context, program):
    asked = planted.rows("held", "forget", "retain")
    assert steering.untouched(context, program, asked) == [row.role == "retain" for row in asked]
    assert steering.leaking(context, program, planted.rows("held", "forget")) == 0


def test_a_prompt_is_guarded_if_its_cosine_to_a_mean_is_above_the_threshold(context):
    """The gates against the paper's formula, at the paper's threshold and at one between the prompts."""
    asked = planted.rows("held")
    ends = []
    for row in asked:
        batch = context.host.batch([Encoded(context.chat.prompt(row))], "right")
        with torch.no_grad():
            ends.append(context.host.model(**batch, output_hidden_states=True).hidden_states[3][0, -1])
    for threshold in (0.55, 0.83):
        params = PARAMS.model_copy(update={"threshold": threshold, "fractions": (1.0,)})
        found = GuardIt().fit(replace(context, params=params))
        means = found.edits[0].tensors["keys"]
        above = ((ops.unit(torch.stack(ends)) @ means.T).amax(1) > threshold).tolist()
        assert steering.untouched(context, found, asked) == [not one for one in above]
    assert 0 < sum(above) < len(asked)


def test_the_threshold_is_calibrated_and_reported(context):
    context.records.clear()
    found = GuardIt().fit(context)
    (line,) = context.records["gates"]
    assert line["threshold"] == found.gates[0].threshold
    assert (line["missed"], line["false_alarms"]) == (0.0, 0.0)
    assert [one["fraction"] for one in context.records["trials"]] == list(PARAMS.fractions)


def test_rows_under_the_wrong_roles_guard_others(context):
    """The control: a fit that is told to forget the kept."""
    splits = {
        split: tuple(steering.with_roles(list(getattr(context, split)), forget="retain", retain="forget"))
        for split in ("fit", "calibrate")
    }
    found = GuardIt().fit(replace(context, **splits))
    asked = planted.rows("held", "forget")
    assert steering.untouched(context, found, asked) == [True] * len(asked)


def test_a_quarter_of_the_depth_by_default(context):
    params = GuardItParams(pairs=8, fractions=(0.5,), pool="prompt_mean", clusters=2)
    found = GuardIt().fit(replace(context, params=params))
    assert (found.edits[0].layer, found.gates[0].pool, len(found.gates)) == (1, "prompt_mean", 2)


@pytest.mark.parametrize("fraction", [0.0, 1.5])
def test_a_fraction_that_the_format_refuses_is_refused_before_the_fit(fraction):
    with pytest.raises(ValidationError, match="fractions"):
        GuardItParams(fractions=(fraction,))
