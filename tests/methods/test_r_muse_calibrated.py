"""Calibrated R-MUSE: the direction is the planted shift and points along it, and what is to be kept survives."""

from __future__ import annotations

from dataclasses import replace

import planted
import planted_contrasts as contrasts
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import FitError
from exporter.fitting.gates import GatePlan
from exporter.fitting.refusals import wordings
from exporter.fitting.token_gates import TokenGatePlan
from exporter.methods.r_muse_calibrated import Directions, RMuseCalibrated, RMuseCalibratedParams, Way
from exporter.types import Encoded
from steer_modules import ops
from steer_modules.attach import steered

PARAMS = RMuseCalibratedParams(
    layers=(1, 2),
    gate=GatePlan(
        scores=("linear", "prototype_margin"), pools=("prompt_mean",), learned=0, crossed=2, pairs=8
    ),
)


def edit(protect, shift=4.0, spread=0.2, seed=1):
    forget = contrasts.forget(seed, shift, spread)
    found = Directions({1: forget}, {1: contrasts.retain(4)}, {1: forget.positive}, PARAMS)
    return found.edit(Way(1, "both", protect, 0.8))


def turned(protect, states):
    one = edit(protect)
    return ops.rotate(states, target=one.target, angle=one.angle, protect=one.protect, **one.tensors)


def cosine(a, b):
    return (ops.unit(a) * ops.unit(b)).sum(-1)


@pytest.mark.parametrize("shift", [4.0, -4.0])
@pytest.mark.parametrize("spread", [0.0, 0.2, 1.0])
def test_the_direction_is_the_shift_with_its_sign(shift, spread):
    for seed in range(1, 40, 3):
        direction = edit("none", shift, spread, seed).tensors["direction"]
        assert float(cosine(direction, contrasts.SHIFT)) * shift > 0.9 * abs(shift)


@pytest.mark.parametrize("protect", ["none", "direction", "exact"])
def test_memories_are_read_before_and_not_after_and_the_control_still_is(protect):
    states, controls = contrasts.memories(50)
    refusals, again = contrasts.memories(60, side=4.0)
    both = torch.cat([states, refusals])
    memory = planted.probe(both, torch.arange(len(both)) // len(states))
    control = planted.probe(both, torch.cat([controls, again]))
    held, planted_there = contrasts.memories(51)
    remembered = torch.zeros(len(held), dtype=torch.long)
    after = turned(protect, held)
    assert planted.accuracy(memory, held, remembered) == 1.0
    assert planted.accuracy(memory, after, remembered) < 0.05
    assert planted.accuracy(control, held, planted_there) == 1.0
    assert planted.accuracy(control, after, planted_there) > 0.98


@given(st.integers(0, 1000), st.floats(0.01, 100.0))
def test_exact_protection_touches_the_retain_subspace_by_rounding_alone(seed, scale):
    h = scale * contrasts.noise(seed, 30, contrasts.D)
    basis = edit("exact").tensors["retain_basis"]
    left, free = turned("exact", h), turned("none", h)
    torch.testing.assert_close(left @ basis, h @ basis, rtol=1e-4, atol=1e-5 * scale)
    assert float((free @ basis - h @ basis).abs().max()) > 1e-2 * scale


@given(st.integers(0, 1000))
def test_no_state_is_turned_farther_than_its_nearest_refusal(seed):
    h = contrasts.noise(seed, 30, contrasts.D)
    one = edit("none")
    moved = cosine(h, turned("none", h))
    nearest = cosine(h[:, None], one.tensors["prototypes"]).amax(1)
    aim = cosine(h, one.tensors["direction"])
    torch.testing.assert_close(moved, torch.maximum(nearest, aim), rtol=0, atol=1e-3)


def test_protection_is_left_out_where_none_is_asked_for():
    assert "retain_basis" not in edit("none").tensors
    assert edit("direction").protect == "direction"


# --- the whole fit, on the planted model ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return planted.context(planted.host(), tmp_path_factory.mktemp("calibrated"), PARAMS)


@pytest.fixture(scope="module")
def program(context):
    return RMuseCalibrated().fit(context)


def fitted(context, **keys):
    return RMuseCalibrated().fit(replace(context, params=PARAMS.model_copy(update=keys)))


def test_the_program_is_the_one_that_the_documents_describe(context, program):
    (gate,), (edit,) = program.gates, program.edits
    assert (edit.op, edit.target, edit.angle, edit.sign) == ("rotate", "direction", "calibrated", None)
    assert (edit.gate, gate.pool, edit.positions) == (gate.name, "prompt_mean", "from_gate")
    assert gate.layer <= edit.layer
    best_gate = next(line for line in context.records["gates"] if line["layer"] <= edit.layer)
    assert (gate.layer, gate.score) == (best_gate["layer"], best_gate["score"])


def test_layer_and_spans_are_tried_first_and_then_protections_where_they_are_cheapest(context):
    context.records.clear()
    edit = fitted(context).edits[0]
    tried = [(line["layers"], line["protect"], line["cost"]) for line in context.records["trials"]]
    free = [line for line in tried if line[1] == "none"]
    cheapest = min(free, key=lambda line: line[2])
    if cheapest[2] > 0:  # where one costs nothing, no other is tried
        assert [line[0] for line in free[:2]] == [[2], [1]]
    protected = [line for line in tried if line[1] != "none"]
    assert {line[0][0] for line in protected} == {cheapest[0][0]}
    best = min(protected, key=lambda line: line[2])
    assert ([edit.layer], edit.protect) == best[:2]


def test_no_protection_is_tried_where_none_is_asked_for(context):
    context.records.clear()
    (edit,) = fitted(context, protections=("none",)).edits
    assert edit.protect == "none"
    assert {line["protect"] for line in context.records["trials"]} == {"none"}


def test_a_smaller_energy_spares_fewer_directions():
    forget = contrasts.forget(1)
    found = Directions({1: forget}, {1: contrasts.retain(4)}, {1: forget.positive}, PARAMS)
    ranks = [
        found.edit(Way(1, "both", "exact", energy)).tensors["retain_basis"].shape[1]
        for energy in (0.3, 0.8, 1.0)
    ]
    assert ranks == [1, 3, contrasts.D]


def test_a_refusal_is_said_word_for_word_and_the_others_keep_their_reply(context, program):
    """What span means as prototypes never did: the sentence that the rotation begins is finished."""
    asked = planted.rows("held", "forget", "retain")
    before = planted.told(context.host, asked)
    with steered(context.host.model, program):
        after = planted.told(context.host, asked)
    wanted = [
        planted.REFUSAL if row.role == "forget" else said for row, said in zip(asked, before, strict=True)
    ]
    assert after == wanted
    assert before != wanted


def test_prototypes_are_the_natural_refusal_position_by_position(program):
    words = planted.REFUSAL.split()
    assert len(program.edits[0].tensors["prototypes"]) == len(words) + 1  # each word, and the end


def test_the_gate_tells_the_forgotten_and_leaves_the_others_as_they_are_to_the_bit(context, program):
    host, asked = context.host, planted.rows("held", "forget", "retain")
    prompts = [Encoded(context.chat.prompt(row)) for row in asked]

    def logits():
        with torch.no_grad():
            return [host.model(**host.batch([one], "right")).logits for one in prompts]

    before = logits()
    with steered(host.model, program):
        after = logits()
    same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert same == [row.role == "retain" for row in asked]


def test_layers_where_none_are_given(context):
    """A third, a half, two thirds of the way and the last; the latest is tried first."""
    params = RMuseCalibratedParams(gate=PARAMS.gate)
    found = Directions.fitted(context, params, wordings(context))
    assert found.layers == [3, 2, 1]
    assert replace(found, params=params.model_copy(update={"spans": ("reasoning",)})).spans == [
        "both"
    ]  # it does not reason


def test_spans_to_try_where_replies_have_a_reasoning():
    """The reasoning alone is one of them, and what is given is all there is."""
    forget = replace(contrasts.forget(1), reasoning=contrasts.noise(2, contrasts.ROWS, contrasts.D))

    def tried(**keys):
        return Directions({1: forget}, {}, {}, RMuseCalibratedParams(**keys)).spans

    assert tried() == ["both"]
    assert tried(spans=("both", "reasoning")) == ["both", "reasoning"]
    assert tried(spans=("answer",)) == ["answer"]
    found = Directions({1: forget}, {}, {1: forget.positive}, PARAMS)
    along = {spans: found.edit(Way(1, spans)).tensors["direction"] for spans in ("answer", "reasoning")}
    assert abs(cosine(along["answer"], contrasts.SHIFT)) > 0.98
    assert abs(cosine(along["reasoning"], contrasts.SHIFT)) < 0.6


def test_a_gate_is_needed_and_one_that_reads_above_every_edit_is_objected_to(context):
    with pytest.raises(FitError, match="gate"):
        fitted(context, gate=None)

    def objections(**keys):
        return [
            line.partition(":")[0] for line in RMuseCalibrated.objections(RMuseCalibratedParams(**keys), 6)
        ]

    assert objections() == []
    assert objections(gate=None) == ["gate"]
    late = TokenGatePlan(layers=(2, 4))
    assert objections(layers=(1,), subject=late) == ["layers"]
    assert objections(layers=(1,), gate=None, subject=late) == ["layers"]
    assert objections(layers=(2,), gate=None, subject=late) == []
    assert objections(layers=(1,), gate=GatePlan(layers=(3,))) == ["layers"]


def test_a_settled_fit_tries_nothing_but_what_was_found(context, program):
    settled = RMuseCalibrated().settled(PARAMS, program)
    (edit,) = program.edits
    assert (settled.layers, settled.protections) == ((edit.layer,), (edit.protect,))
    assert settled.subject is None
    keys = {name: getattr(settled, name) for name in ("layers", "protections")}
    assert fitted(context, **keys).sha256 == program.sha256
