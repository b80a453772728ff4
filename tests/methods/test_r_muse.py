"""R-MUSE as published: its direction, its retain subspace, its angle and its gate, on planted differences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import planted
import planted_contrasts as contrasts
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import DataError, FitError
from exporter.fitting.pooling import PooledSequence
from exporter.fitting.subspaces import principal_cosines
from exporter.methods import r_muse
from exporter.methods.r_muse import RMuse, RMuseParams
from exporter.types import Encoded, Row
from steer_modules import ops
from steer_modules.attach import steered

PARAMS = RMuseParams()
FITTED = r_muse._edit(contrasts.forget(1, shift=0.0, spread=4.0), contrasts.retain(4), 1, PARAMS)


def turned(edit, states):
    options = {"target": edit.target, "angle": edit.angle, "protect": edit.protect, "sign": edit.sign}
    return ops.rotate(states, **options, **edit.tensors)


def cosine(a, b):
    return (ops.unit(a) * ops.unit(b)).sum(-1)


def test_the_direction_is_that_of_the_largest_differences():
    assert abs(cosine(FITTED.tensors["direction"], contrasts.SHIFT)) > 0.98
    blind = r_muse._edit(contrasts.forget(1, shift=4.0, spread=0.0), contrasts.retain(4), 1, PARAMS)
    assert (
        abs(cosine(blind.tensors["direction"], contrasts.SHIFT)) < 0.8
    )  # centring takes a common shift away


def test_the_retain_basis_holds_the_planted_directions_and_no_more():
    basis = FITTED.tensors["retain_basis"]
    torch.testing.assert_close(basis.T @ basis, torch.eye(3), rtol=0, atol=1e-5)
    assert float((contrasts.KEPT.T @ basis).square().sum()) > 2.4
    whole = r_muse._retain_basis(contrasts.retain(4), 1.0)
    assert whole.shape == (contrasts.D, contrasts.D)


@given(st.integers(0, 1000), st.floats(0.1, 50.0))
def test_no_state_is_turned_into_the_retain_subspace_or_farther_than_the_calibrated_angle(seed, scale):
    """The target has no part in U, so what lies in U shrinks, all of it by one factor, and never turns."""
    basis = FITTED.tensors["retain_basis"]
    target = ops.prepare_rotate(FITTED.protect, **FITTED.tensors)["direction"]
    assert float((target @ basis).abs().max()) < 1e-5
    h = scale * contrasts.noise(seed, 40, contrasts.D)
    after = turned(FITTED, h)
    torch.testing.assert_close(after.norm(dim=1), h.norm(dim=1), rtol=1e-4, atol=1e-4)
    kept, still = h @ basis, after @ basis
    factor = (still * kept).sum(1, keepdim=True) / kept.square().sum(1, keepdim=True)
    torch.testing.assert_close(still, factor * kept, rtol=1e-3, atol=1e-4 * scale)
    assert float(factor.abs().max()) < 1.0 + 1e-4
    nearest = cosine(h[:, None], FITTED.tensors["prototypes"]).amax(1)
    own = torch.sign(h @ FITTED.tensors["direction"])[:, None] * target
    moved = cosine(h, after)
    assert bool((moved >= torch.maximum(nearest, cosine(h, own)) - 1e-4).all())
    assert bool((moved < 0.999).any())


def test_the_direction_has_the_side_that_the_state_is_on():
    """v v^T h, whatever its sign: two states that mirror each other stay mirrors; with a fixed sign they would not."""
    prototypes = torch.cat([FITTED.tensors["prototypes"], -FITTED.tensors["prototypes"]])
    tensors = {**FITTED.tensors, "prototypes": prototypes}
    h = contrasts.noise(8, 20, contrasts.D)
    sides = {
        sign: [
            ops.rotate(x, target="direction", angle="calibrated", protect="direction", sign=sign, **tensors)
            for x in (h, -h)
        ]
        for sign in (FITTED.sign, "fixed")
    }
    torch.testing.assert_close(sides["state"][0], -sides["state"][1])
    assert not torch.allclose(sides["fixed"][0], -sides["fixed"][1], atol=1e-2)


def test_prototypes_are_unit_and_as_many_as_asked():
    few = r_muse._edit(contrasts.forget(1), contrasts.retain(4), 1, RMuseParams(prototypes=5))
    rows = few.tensors["prototypes"]
    assert rows.shape == (5, contrasts.D)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(5))


# --- the whole fit, on the planted model ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return planted.context(planted.host(), tmp_path_factory.mktemp("r_muse"), PARAMS)


def fitted(context, **keys):
    return RMuse().fit(replace(context, params=RMuseParams(**keys)))


def test_the_program_is_the_papers(context):
    found = fitted(context)
    (gate,), (edit,) = found.gates, found.edits
    assert (gate.pool, gate.score, gate.threshold, gate.fires) == (
        "prompt_end",
        "subspace_ratio",
        0.85,
        "below",
    )
    assert (edit.op, edit.target, edit.angle, edit.protect, edit.sign) == (
        "rotate",
        "direction",
        "calibrated",
        "direction",
        "state",
    )
    assert (gate.layer, edit.layer, edit.positions) == (2, 2, "from_gate")
    assert torch.equal(gate.tensors["basis"], edit.tensors["retain_basis"])
    assert len(edit.tensors["prototypes"]) == len(planted.FORGET)
    moved = fitted(context, layer=3, scoring_layer=1, tau=0.5)
    assert [(one.layer, one.threshold) for one in moved.gates] == [(1, 0.5)]
    assert [one.layer for one in moved.edits] == [3]
    read = [fitted(context, layer=layer).gates[0].tensors["basis"] for layer in (1, 3)]
    assert torch.equal(moved.gates[0].tensors["basis"], read[0])
    assert torch.equal(moved.edits[0].tensors["retain_basis"], read[1])


def test_it_steers_where_the_ratio_is_below_tau_and_nothing_else_to_the_bit(context):
    """The gate against its formula, with a threshold that some prompts are on either side of."""
    host, asked = context.host, planted.rows("held")
    drawn = fitted(context, layer=1)
    sequences = [Encoded(context.chat.prompt(row)) for row in asked]
    items = [PooledSequence(one, ((one.prompt_end,),)) for one in sequences]
    ends = context.collect(items, [1], "ends").at(1)
    basis = drawn.gates[0].tensors["basis"]
    ratio = (ends @ basis).norm(dim=1) / ends.norm(dim=1)
    tau = float(ratio.sort().values[4:6].mean())
    program = fitted(context, layer=1, tau=tau)

    def logits(one):
        with torch.no_grad():
            return host.model(**host.batch([one], "right")).logits

    before = [logits(one) for one in sequences]
    with steered(host.model, program):
        after = [logits(one) for one in sequences]
    same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert same == (ratio >= tau).tolist()
    assert sum(same) == len(asked) - 5


def pictured(folder, **keys):
    """A fit on planted states of questions of which every second one shows an image."""
    rows = [
        Row(f"{role}{n}", f"{n} 84 85", f"{n + 20} 7", role, image=Path("x.png") if n % 2 else None)
        for n, role in enumerate(["forget"] * 4 + ["retain"] * 4 + ["unknown"] * 2, start=3)
    ]

    def state(sequence, column, layer):
        ids = sequence.prompt.ids + sequence.response
        return contrasts.noise(1000 * layer + 31 * column + sum(ids[: column + 1]), planted.WIDTH)

    params = RMuseParams(negatives="rows", **keys)
    return planted.states_context(folder, state, rows, layers=4, params=params)


def test_questions_about_images_are_turned_one_layer_on(tmp_path):
    """One edit a layer: text at the given one, images at the next; where one kind is alone, it has the given one."""
    given = pictured(tmp_path, layer=2)
    both = RMuse().fit(given).edits
    assert [edit.layer for edit in both] == [2, 3]
    assert [len(edit.tensors["prototypes"]) for edit in both] == [2, 2]
    seeing = [row for row in given.fit if row.image is not None or row.role != "forget"]
    assert [edit.layer for edit in RMuse().fit(replace(given, fit=tuple(seeing))).edits] == [2]


def test_at_the_last_layer_both_kinds_are_fitted_together(tmp_path):
    """There is no next one, and neither may be left out."""
    (edit,) = RMuse().fit(pictured(tmp_path, layer=3)).edits
    assert edit.layer == 3
    assert len(edit.tensors["prototypes"]) == 4


@pytest.mark.parametrize("role", ["forget", "retain", "unknown"])
def test_a_role_that_is_missing_is_named(context, role):
    rows = [row for row in context.fit if row.role != role]
    with pytest.raises(DataError, match=role):
        RMuse().fit(replace(context, fit=tuple(rows)))


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({}, None),
        ({"layer": 1, "scoring_layer": 1}, None),
        ({"scoring_layer": 2}, None),
        ({"scoring_layer": 3}, "scoring_layer"),
        ({"layer": 0, "scoring_layer": 1}, "scoring_layer"),
    ],
)
def test_a_gate_that_reads_above_its_edit_is_objected_to(keys, key):
    found = [line.partition(":")[0] for line in RMuse.objections(RMuseParams(**keys), 4)]
    assert found == ([] if key is None else [key])


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({"protect": "none"}, {"protect": "none", "sign": "state", "angle": "calibrated"}),
        ({"protect": "exact"}, {"protect": "exact"}),
        ({"angle": 0.5}, {"angle": "fraction", "strength": 0.5}),
        ({"sign": "fixed"}, {"sign": "fixed"}),
    ],
)
def test_an_idea_that_is_taken_out_is_not_in_the_program(context, keys, wanted):
    found = fitted(context, **keys)
    (edit,) = found.edits
    assert {name: getattr(edit, name) for name in wanted} == wanted
    assert ("retain_basis" in edit.tensors) == (edit.protect != "none")
    assert ("prototypes" in edit.tensors) == (edit.angle == "calibrated")
    assert ("basis" in found.gates[0].tensors) is True  # the gate's own reading of the retain set stays


def test_a_fixed_angle_is_divided_among_the_layers(context):
    found = fitted(context, layer=1, depth=3, angle=0.6)
    assert [(edit.layer, edit.strength) for edit in found.edits] == [
        (one, pytest.approx(0.2)) for one in (1, 2, 3)
    ]
    assert not list(RMuse.objections(RMuseParams(layer=1, depth=3), 4))
    assert [line.partition(":")[0] for line in RMuse.objections(RMuseParams(layer=2, depth=3), 4)] == [
        "depth"
    ]


def test_one_span_alone_gives_its_own_direction():
    both = contrasts.forget(1, shift=0.0, spread=4.0)
    other = torch.randn(both.answer.shape, generator=torch.Generator().manual_seed(3))
    hybrid = replace(both, reasoning=other)
    parts = {
        spans: r_muse._edit(hybrid, contrasts.retain(4), 1, RMuseParams(spans=spans)).tensors["direction"]
        for spans in ("both", "answer", "reasoning")
    }
    assert abs(cosine(parts["answer"], contrasts.SHIFT)) > 0.98
    assert abs(cosine(parts["reasoning"], contrasts.SHIFT)) < 0.6
    with pytest.raises(FitError, match="spans"):
        replace(both, reasoning=None).hybrid(centred=True, spans="reasoning")


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**16))
def test_principal_cosines_are_those_of_the_planted_angles(one, other, seed):
    basis = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(seed)).double())[
        0
    ].float()
    count = min(one, other)
    angles = torch.linspace(0.1, 1.4, count)
    first = basis[:, :one]
    turned_ = [torch.cos(a) * basis[:, i] + torch.sin(a) * basis[:, 5 + i] for i, a in enumerate(angles)]
    second = torch.stack([*turned_, *(basis[:, 10 + i] for i in range(min(other - count, 2)))], 1)
    found = principal_cosines(first, second)[:count]
    torch.testing.assert_close(found, torch.cos(angles), rtol=0, atol=1e-5)


def test_how_far_the_two_subspaces_lie_apart_is_recorded(context, caplog):
    context.records.clear()
    fitted(context)
    (line,) = context.records["orthogonality"]
    assert 0 <= line["mean"] <= line["largest"] <= 1
    assert ("share a direction" in caplog.text) == (line["largest"] > r_muse.OBLIQUE)
