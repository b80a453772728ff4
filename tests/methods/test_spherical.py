"""Spherical steering: the gate is the paper's delta > beta, the rotation leaves (1 - t) of the angle, and mu is the planted direction."""

from __future__ import annotations

import math
from dataclasses import replace

import planted
import planted_steering as steering
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from exporter.errors import DataError
from exporter.methods.spherical import Spherical, SphericalParams, edit_of, gate_of
from exporter.types import Encoded
from steer_modules import ops

PARAMS = SphericalParams(pairs=8)
FOUND = SphericalParams(pairs=8, layers=(2,), sources=("refused",), fractions=(0.5,))


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def angle(a, b):
    a, b = ops.unit(a), ops.unit(b)
    return 2 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.floats(0.05, 1.0))
def test_a_turned_state_keeps_its_length_and_what_is_left_of_the_angle(seed, fraction):
    mu, h = ops.unit(noise(seed, 24)), 5.0 * noise(seed + 1, 20, 24)
    edit = edit_of(mu, 1, fraction)
    after = ops.rotate(
        h, target=edit.target, angle=edit.angle, protect=edit.protect, strength=edit.strength, **edit.tensors
    )
    torch.testing.assert_close(after.norm(dim=1), h.norm(dim=1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(angle(after, mu), (1 - fraction) * angle(h, mu), rtol=0, atol=2e-3)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.floats(-0.99, 0.99))
def test_the_gate_is_delta_above_beta(seed, beta):
    mu, h = ops.unit(noise(seed, 24)), noise(seed + 1, 200, 24)
    threshold = -math.atanh(beta) / 20.0
    gate = gate_of(mu, 1, "prompt_end")
    fired = ops.fires(ops.linear_unit(h, **gate.tensors), threshold, gate.fires)
    delta = -torch.tanh(20.0 * ops.unit(h).double() @ mu.double())
    clear = (delta - beta).abs() > 1e-4
    assert torch.equal(fired[clear], (delta > beta)[clear])


# --- the whole fit, on the planted model ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return planted.context(planted.host(), tmp_path_factory.mktemp("spherical"), PARAMS)


@pytest.fixture(scope="module")
def program(context):
    return Spherical().fit(context)


def test_the_program_is_the_one_that_the_documents_describe(context, program):
    (gate,), (edit,) = program.gates, program.edits
    assert (gate.score, gate.pool, gate.fires, gate.layer) == ("linear_unit", "prompt_end", "below", 2)
    assert (edit.op, edit.target, edit.angle, edit.gate) == ("rotate", "direction", "fraction", "apart")
    assert torch.equal(gate.tensors["weight"], edit.tensors["direction"])
    tried = context.records["trials"]
    costs = [line["cost"] for line in tried]
    best = tried[costs.index(min(costs))]
    assert (best["fraction"], best["layers"]) == (edit.strength, [edit.layer])
    assert best["beta"] == pytest.approx(math.tanh(-20.0 * gate.threshold))


def test_mu_leads_from_the_forgotten_to_what_is_refused(program):
    mu = program.edits[0].tensors["direction"]
    assert float(mu @ planted.heard("unknown")) > 0.1
    assert all(float(mu @ planted.heard(name)) < -0.01 for name in planted.FORGET)


def test_refused_word_for_word_and_what_is_kept_stays_to_the_bit(context, program):
    asked = planted.rows("held", "forget", "retain")
    assert steering.untouched(context, program, asked) == [row.role == "retain" for row in asked]
    assert steering.told(context, program, planted.rows("held", "forget")) == [planted.REFUSAL] * 3


def test_a_given_beta_is_the_papers_rule(context):
    """Which held prompts are steered, against delta of their states."""
    params = FOUND.model_copy(update={"beta": 0.997})
    found = Spherical().fit(replace(context, params=params))
    mu, asked = found.edits[0].tensors["direction"], planted.rows("held")
    deltas = []
    for row in asked:
        batch = context.host.batch([Encoded(context.chat.prompt(row))], "right")
        with torch.no_grad():
            h = context.host.model(**batch, output_hidden_states=True).hidden_states[3][0, -1]
        deltas.append(-math.tanh(20.0 * float(ops.unit(h) @ mu)))
    steered = [delta > 0.997 for delta in deltas]
    assert steering.untouched(context, found, asked) == [not one for one in steered]
    assert 0 < sum(steered) < len(asked)


def test_rows_under_the_wrong_roles_steer_others(context):
    """The control: contrasted with questions to keep, the gate fires for whatever it was told to forget."""
    params = FOUND.model_copy(update={"sources": ("questions",)})
    splits = {
        split: tuple(steering.with_roles(list(getattr(context, split)), forget="retain", retain="forget"))
        for split in ("fit", "calibrate")
    }
    asked = planted.rows("held", "forget", "retain")
    right = Spherical().fit(replace(context, params=params))
    wrong = Spherical().fit(replace(context, params=params, **splits))
    assert steering.untouched(context, right, asked) == [row.role == "retain" for row in asked]
    assert steering.untouched(context, wrong, asked) == [row.role == "forget" for row in asked]


def test_every_source_and_layer_is_tried_until_nothing_is_wrong(context):
    params = SphericalParams(pairs=8, layers=(1, 3), sources=("replies", "refused"), fractions=(0.25, 1.0))
    given = replace(context, params=params, records={})
    Spherical().fit(given)
    tried = [(line["source"], *line["layers"], line["fraction"]) for line in given.records["trials"]]
    wanted = [(s, layer, f) for s in params.sources for layer in (1, 3) for f in params.fractions]
    assert tried == wanted[: len(tried)]
    assert len(tried) > 4


def test_a_role_that_is_missing_is_named(context):
    rows = tuple(row for row in context.fit if row.role != "unknown")
    with pytest.raises(DataError, match="unknown"):
        Spherical().fit(replace(context, fit=rows))


@pytest.mark.parametrize("fraction", [0.0, 1.5])
def test_a_fraction_that_the_format_refuses_is_refused_before_the_fit(fraction):
    with pytest.raises(ValidationError, match="fractions"):
        SphericalParams(fractions=(fraction,))
