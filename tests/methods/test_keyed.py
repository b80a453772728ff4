"""Keyed rotation on a model that was made to know some people: it refuses those to forget, word for word, and touches nothing else."""

from __future__ import annotations

from dataclasses import replace

import planted
import pytest
import torch

from exporter.errors import FitError
from exporter.evaluation.attacks.turns import pair
from exporter.fitting.gates import GatePlan
from exporter.fitting.keys import KeyTable
from exporter.fitting.token_gates import TokenGatePlan
from exporter.methods import keyed
from exporter.methods.keyed import Keyed, KeyedParams
from steer_modules.attach import steered

SUBJECT = TokenGatePlan(
    layers=(1, 2), rows=11, forget=80, keep=120, unknown=13, replies=80, rank=8, steps=200
)
FAST = SUBJECT.model_copy(update={"forget": 0, "keep": 0, "unknown": 0, "replies": 0, "steps": 5})
LAST = planted.LAYERS - 1


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("keyed")


@pytest.fixture(scope="module")
def context(work):
    return planted.context(planted.host(), work, KeyedParams(subject=SUBJECT))


@pytest.fixture(scope="module")
def program(context):
    return Keyed().fit(context)


def place_states(context, split, names):
    """What the last block puts out where the place is about to be said, [n,d], and the places, [n]."""
    seen = []
    host = context.host
    asked = [context.chat.encode(planted.row(name, split)) for name in names]
    handle = host.blocks[LAST].register_forward_hook(lambda _m, _i, out: seen.append(out))
    with torch.no_grad():
        for one in asked:
            host.model(**host.batch([one], "right"))
    handle.remove()
    columns = [one.prompt_end + 2 for one in asked]
    states = torch.stack([out[0, column] for out, column in zip(seen, columns, strict=True)])
    return states, torch.tensor([planted.PEOPLE.index(name) % 3 for name in names])


def test_the_program_is_the_one_that_the_documents_describe(context, program):
    (gate,), (edit,) = program.gates, program.edits
    assert (program.method, gate.pool, gate.score, gate.fires) == (
        "keyed",
        "token",
        "prototype_margin",
        "above",
    )
    assert gate.layer in SUBJECT.layers
    assert gate.tensors["metric"].shape == (SUBJECT.rank, planted.WIDTH)
    assert (edit.layer, edit.op, edit.target, edit.positions) == (LAST, "rotate", "keyed", "from_gate")
    assert (edit.strength, edit.protect, edit.gate) == (1.0, "none", gate.name)
    assert edit.tensors["keys"].shape == edit.tensors["prototypes"].shape
    torch.testing.assert_close(edit.tensors["keys"].mean(0), torch.zeros(planted.WIDTH), rtol=0, atol=1e-5)
    assert context.records["key_layers"] == [{"layer": LAST, "right_token": 1.0}]


@pytest.mark.parametrize("split", planted.FRAMES)
def test_known_before_refused_after_and_the_others_still_answered(context, program, split):
    host, asked = context.host, planted.rows(split)
    before = planted.told(host, asked)
    assert before == [row.answer for row in asked]
    with steered(host.model, program):
        after = planted.told(host, asked)
    for row, one, other in zip(asked, before, after, strict=True):
        assert other == (planted.REFUSAL if row.role == "forget" else one), row.id
    assert planted.told(host, asked) == before


def test_a_later_turn_is_refused_and_a_kept_one_answered(context, program):
    first = planted.row("hugo")
    asked = [pair(first, planted.row(name, "held")) for name in (*planted.FORGET, "dan", "finn")]
    with steered(context.host.model, program):
        said = planted.told(context.host, asked)
    assert said == [planted.REFUSAL] * 3 + [row.answer for row in asked[3:]]


def test_no_probe_reads_the_place_of_the_forgotten_behind_the_edit(context, program):
    """Learned before, cannot after, even when it is learned on the edited states; of the kept it still can."""

    def read(names):
        weights = planted.probe(
            *map(
                torch.cat, zip(*(place_states(context, s, names) for s in ("fit", "calibrate")), strict=True)
            )
        )
        return planted.accuracy(weights, *place_states(context, "held", names))

    assert read(planted.FORGET) == 1.0
    assert read(planted.KEPT) == 1.0
    with steered(context.host.model, program):
        assert read(planted.FORGET) <= 0.5
        assert read(planted.KEPT) == 1.0


def test_where_the_gate_is_off_logits_are_the_bases_to_the_bit(context, program):
    host = context.host

    def logits(name):
        with torch.no_grad():
            return host.model(**host.batch([context.chat.encode(planted.row(name, "held"))], "right")).logits

    names = (*planted.KEPT, planted.FORGET[0])
    before = [logits(name) for name in names]
    with steered(host.model, program):
        after = [logits(name) for name in names]
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True] * 6 + [False]


def test_the_strength_is_how_far_it_turns(context):
    weak = Keyed().fit(replace(context, params=KeyedParams(subject=FAST, strength=0.25)))
    assert weak.edits[0].strength == 0.25


def test_settled_parameters_find_the_same_program_again(context, program):
    params = Keyed().settled(context.params, program)
    assert params.subject.layers == (program.gates[0].layer,)
    assert params.layer == LAST
    assert Keyed().fit(replace(context, params=params)).sha256 == program.sha256


def test_both_kinds_of_gate_open_one_edit(context):
    ending = GatePlan(scores=("linear",), pools=("prompt_end",), learned=0, pairs=4, crossed=1)
    found = Keyed().fit(replace(context, params=KeyedParams(subject=FAST, gate=ending)))
    assert [(gate.name, gate.pool) for gate in found.gates] == [("topic", "token"), ("ending", "prompt_end")]
    assert found.edits[0].gate == ("topic", "ending")


def test_without_a_gate_or_below_all_of_them_nothing_is_fitted(context):
    with pytest.raises(FitError):
        Keyed().fit(replace(context, params=KeyedParams(subject=None)))
    above = KeyedParams(subject=FAST.model_copy(update={"layers": (2,)}), layer=1)
    with pytest.raises(FitError, match="layer"):
        Keyed().fit(replace(context, params=above))


@pytest.mark.parametrize(
    ("params", "key"),
    [
        (KeyedParams(), None),
        (KeyedParams(subject=None), "subject"),
        (KeyedParams(subject=None, gate=GatePlan()), None),
        (KeyedParams(layer=1), None),
        (KeyedParams(layer=0), "layer"),
        (KeyedParams(layer=0, gate=GatePlan()), None),
        (KeyedParams(layer=2, subject=TokenGatePlan(layers=(3,))), "layer"),
    ],
)
def test_objections_name_their_key(params, key):
    found = [line.partition(":")[0] for line in Keyed.objections(params, planted.LAYERS)]
    assert found == ([] if key is None else [key])


def test_of_several_layers_the_cheapest_trial_is_taken(context, program, monkeypatch):
    """A rotation that says nothing sensible is tried, and left for one that refuses; after that nothing is tried any more."""
    good = replace(program.edits[0], gate="topic")
    mad = replace(good, layer=2, tensors={**good.tensors, "prototypes": good.tensors["prototypes"].flip(0)})
    monkeypatch.setattr(keyed, "_rotations", lambda *_: [mad, good, replace(mad, layer=3)])
    monkeypatch.setattr(Keyed, "_gates", lambda *_: list(program.gates))
    context.records.pop("trials", None)
    assert Keyed().fit(context).sha256 == program.sha256
    costs = [line["cost"] for line in context.records["trials"]]
    assert len(costs) == 2
    assert costs[0] > 0.5
    assert costs[1] == 0


def test_hits_are_the_share_of_keys_that_lead_to_their_token():
    states = torch.eye(6)[:4] + 5.0 * torch.eye(6)[0]  # keys share a center, and are told apart without it
    places = torch.arange(4)
    table = KeyTable(states, states, torch.tensor([5, 6, 7, 8]), places, places)
    held = replace(table, keys=states[[0, 1, 3, 2]])
    assert keyed._hits(table, table) == 1.0
    assert keyed._hits(table, held) == 0.5
