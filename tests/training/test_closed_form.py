"""Edits that are computed: each against the change of weights that its formula asks for, written out whole."""

from __future__ import annotations

from dataclasses import replace

import planted
import pytest
import tiny
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import FitError
from exporter.training.closed_form.asru import Asru, AsruParams, ridge_solution
from exporter.training.closed_form.manu import Manu, ManuParams, importances, zeroing
from exporter.training.factors import Factors, edit_of, truncated
from exporter.training.lora import edited
from exporter.training.mlp_inputs import down_projection, inputs_of

LAYER = planted.LAYERS // 2


def at_the_end(model, context, names):
    """Outputs of block ``LAYER`` and inputs of its down projection at the last token of people's prompts, [n,d] and [n,in]."""
    chat, found = context.chat, []
    mlp = model.get_decoder().layers[LAYER].mlp.down_proj
    for name in names:
        batch = context.host.batch([planted.Encoded(chat.prompt(planted.row(name)))], "right")
        with torch.no_grad(), inputs_of({"down": mlp}) as inputs:
            states = model(**batch, output_hidden_states=True).hidden_states[LAYER + 1]
        found.append((states[0, -1], inputs["down"][0, -1]))
    return tuple(torch.stack(one) for one in zip(*found, strict=True))


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
def test_the_ridge_solution_is_that_of_the_normal_equations(forget, retain, seed):
    drawn = torch.randn(forget + retain, 5, generator=torch.Generator().manual_seed(seed)).double()
    a = ridge_solution(drawn[:forget], drawn[forget:], 0.1)
    gamma = 0.1 * drawn.square().sum(1).mean()
    normal = drawn.T @ drawn + gamma * torch.eye(5, dtype=torch.float64)
    assert torch.allclose(normal @ a, drawn[:forget].sum(0), atol=1e-9)


def test_asru_moves_the_forget_set_by_v_and_the_retain_set_not_at_all(tmp_path):
    host = planted.host(neurons=True)
    context = planted.context(host, tmp_path, AsruParams(strength=0.7, ridge=1e-6))
    edit = Asru().fit(context)
    sides = {"forget": planted.FORGET, "retain": planted.KEPT, "unknown": planted.UNKNOWN}
    before = {side: at_the_end(host.model, context, names) for side, names in sides.items()}
    v = before["unknown"][0].mean(0) - before["forget"][0].mean(0)
    with edited(host.model, edit) as tuned:
        model = tuned.get_base_model()
        moved = {
            side: at_the_end(model, context, names)[0] - before[side][0] for side, names in sides.items()
        }
    assert v.norm() > 1
    assert torch.allclose(moved["forget"], 0.7 * v.expand(3, -1), atol=1e-3 * float(v.norm()))
    assert moved["retain"].abs().max() < 1e-3 * v.norm()


def test_asru_is_its_formula(tmp_path):
    host = planted.host(neurons=True)
    context = planted.context(host, tmp_path, AsruParams(layer=LAYER, strength=2.0, ridge=0.05))
    edit = Asru().fit(context)
    (forget, hidden), (_, kept) = (
        at_the_end(host.model, context, names) for names in (planted.FORGET, planted.KEPT)
    )
    v = at_the_end(host.model, context, planted.UNKNOWN)[0].mean(0) - forget.mean(0)
    inputs = torch.cat([hidden, kept]).double()
    gamma = 0.05 * inputs.square().sum(1).mean()
    inverse = torch.linalg.inv(inputs.T @ inputs + gamma * torch.eye(inputs.shape[1], dtype=torch.float64))
    wanted = 2.0 * torch.outer(v.double(), hidden.double().sum(0) @ inverse)
    a, b = (next(one for name, one in edit.tensors.items() if part in name) for part in ("lora_A", "lora_B"))
    assert edit.config["r"] == edit.config["lora_alpha"] == 1
    assert torch.allclose((b @ a).double(), wanted, atol=1e-5)
    (record,) = context.records["asru"]
    assert record["layer"] == LAYER
    assert record["forget_moved"] > 0.75, "in lengths of v, before the strength"
    assert record["retain_moved"] < 0.2


def test_asru_says_that_there_is_nothing_to_edit(tmp_path):
    silent = planted.context(planted.host(), tmp_path, AsruParams())
    with pytest.raises(FitError, match="layer"):
        Asru().fit(silent)


def test_a_block_without_one_down_projection_is_refused():
    host = planted.host()
    host.blocks[1].mlp.down_proj = torch.nn.Identity()
    with pytest.raises(FitError, match="block 1"):
        down_projection(host, 1)


@given(st.integers(1, 5), st.integers(0, 99))
def test_a_truncation_knows_what_it_lacks(rank, seed):
    delta = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed))
    factors, lacking = truncated(delta, rank)
    assert lacking == pytest.approx(float((delta - factors.delta).norm() / delta.norm()), abs=1e-5)
    assert (lacking < 1e-5) is (rank >= 4)
    assert truncated(torch.zeros(4, 6), rank)[1] == 0


def test_a_large_matrix_is_truncated_as_well_as_a_small_one(monkeypatch):
    """Decomposed at random, of a spectrum that falls as that of a masked adapter does."""
    draw = torch.Generator().manual_seed(0)
    left, right = torch.randn(200, 4, generator=draw), torch.randn(4, 150, generator=draw)
    delta = left @ right + 0.3 * torch.randn(200, 150, generator=draw)
    exact = truncated(delta, 4)[1]
    monkeypatch.setattr("exporter.training.factors._EXACT", 100)
    factors, lacking = truncated(delta, 4)
    assert exact <= lacking < 1.001 * exact
    assert torch.equal(factors.a, truncated(delta, 4)[0].a)


def test_layers_of_another_rank_are_padded(tmp_path):
    host = planted.host()
    context = planted.context(host, tmp_path)
    names = [down_projection(host, block) for block in (0, 1)]
    drawn = [torch.randn(planted.WIDTH, 8, generator=torch.Generator().manual_seed(one)) for one in (0, 1)]
    factors = {name: truncated(one, rank)[0] for name, one, rank in zip(names, drawn, (3, 1), strict=True)}
    edit = edit_of(context, "none", factors)
    for name, one in factors.items():
        a, b = (edit.tensors[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
        assert a.shape[0] == b.shape[1] == 3
        assert torch.allclose(b @ a, one.delta, atol=1e-6)
    with pytest.raises(FitError, match="not finite"):
        edit_of(context, "none", {names[0]: Factors(torch.full((1, 8), torch.nan), torch.ones(64, 1))})
    with pytest.raises(FitError, match="rank 600"):
        edit_of(context, "none", {names[0]: Factors(torch.ones(600, 8), torch.ones(64, 600))})


def test_manu_zeroes_the_neurons_of_the_forget_set_and_no_other(tmp_path):
    host = planted.host(neurons=True)
    share = 3 / (planted.LAYERS * len(planted.PEOPLE))
    context = planted.context(host, tmp_path, ManuParams(share=share))
    edit = Manu().fit(context)
    layer = host.blocks[LAYER].mlp.down_proj
    wanted = layer.weight.detach().clone()
    wanted[:, [planted.PEOPLE.index(name) for name in planted.FORGET]] = 0
    with edited(host.model, edit) as tuned:
        merged = tuned.merge_and_unload().get_submodule(down_projection(host, LAYER)).weight
        assert torch.equal(merged, wanted)
    assert [one["neurons"] for one in context.records["manu"]] == [0, 0, 3, 0]
    assert edit.config["r"] == 3


def test_the_planted_neurons_are_what_the_model_knows():
    """The control of what follows."""
    host = planted.host(neurons=True)
    asked = planted.rows("fit")
    assert planted.told(host, asked) == [row.answer for row in asked]
    with torch.no_grad():
        host.blocks[LAYER].mlp.down_proj.weight.zero_()
    assert planted.told(host, asked) != [row.answer for row in asked]


def test_manu_takes_the_most_important_neuron_first(tmp_path):
    context = planted.context(planted.host(neurons=True), tmp_path, ManuParams(share=1e-6, layers=(LAYER,)))
    assert Manu().fit(context).config["r"] == 1
    everything = planted.context(planted.host(neurons=True), tmp_path, ManuParams(share=1.0))
    rank = Manu().fit(everything).config["r"]
    assert 3 <= rank < len(planted.PEOPLE) - 2, "what is more active on the retain set stays"


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_zeroing_is_exact_whichever_way_round_a_layer_has_its_weights(family):
    name, settings = tiny.CONFIGS[family]
    kind = getattr(transformers, name)
    host = planted.ModelHost(kind(kind.config_class(**settings)), planted.tokenizer())
    layer = host.model.get_submodule(down_projection(host, 1))
    neurons, states = torch.tensor([3, 9, 30]), torch.randn(5, 64 if family == "llama" else 128)
    change = zeroing(layer, neurons).delta
    weight = layer.weight if family == "llama" else layer.weight.T
    assert torch.equal((weight + change)[:, neurons], torch.zeros(tiny.D, 3))
    without = states.clone()
    without[:, neurons] = 0
    assert torch.allclose(layer(states) + states @ change.T, layer(without), atol=1e-6)


def test_importances_are_those_of_all_tokens_and_of_no_padding(tmp_path):
    host = planted.host(neurons=True)
    context = planted.context(host, tmp_path, ManuParams())
    items = [context.chat.encode(row) for row in planted.rows("fit")[-3:]]
    name = down_projection(host, LAYER)
    found = importances(context, [name], items)[name]
    layer, states = host.model.get_submodule(name), []
    for one in items:
        with torch.no_grad(), inputs_of({name: layer}) as inputs:
            host.model(**host.batch([one], "right"))
        states.append(inputs[name][0])
    a = torch.cat(states).double()
    wanted = [
        a.abs().mean(0),
        (a.abs() > 0.1).double().mean(0),
        a.std(0, correction=0),
        a.square().mean(0).sqrt(),
    ]
    assert torch.allclose(found, torch.stack(wanted), atol=1e-6)


def test_of_a_block_no_more_is_zeroed_than_servers_take(tmp_path, monkeypatch):
    monkeypatch.setattr("exporter.training.closed_form.manu.LARGEST_RANK", 2)
    context = planted.context(planted.host(neurons=True), tmp_path, ManuParams(share=1.0))
    assert Manu().fit(context).config["r"] == 2


@pytest.mark.parametrize(
    ("method", "params", "key", "least"),
    [
        (Asru, AsruParams(layer=LAYER, ridge=0.05, strengths=(0.01, 2.0)), "strength", 2.0),
        (
            Manu,
            ManuParams(layers=(LAYER,), shares=(1e-6, 3 / len(planted.PEOPLE))),
            "share",
            3 / len(planted.PEOPLE),
        ),
    ],
    ids=["asru", "manu"],
)
def test_the_main_knob_is_searched_on_calibration_rows(tmp_path, method, params, key, least):
    """The first value leaves all that is known, and the second takes it."""
    context = planted.context(planted.host(neurons=True), tmp_path, params)
    found = method().fit(context)
    trials = context.records["trials"]
    assert [one[key] for one in trials] == list(getattr(params, f"{key}s" if key == "share" else "strengths"))
    assert trials[1]["cost"] < trials[0]["cost"]
    fixed = planted.context(planted.host(neurons=True), tmp_path, params.model_copy(update={key: least}))
    alone = method().fit(fixed)
    assert "trials" not in fixed.records
    assert all(torch.equal(found.tensors[name], one) for name, one in alone.tensors.items())


@pytest.mark.parametrize(
    ("method", "params"), [(Asru, AsruParams(layer=LAYER)), (Manu, ManuParams(layers=(LAYER,)))]
)
def test_without_a_calibration_row_to_keep_nothing_is_searched(tmp_path, method, params):
    """The strongest would win, and its line would say that all is kept."""
    whole = planted.context(planted.host(neurons=True), tmp_path, params)
    context = replace(whole, calibrate=tuple(planted.rows("calibrate", "forget")))
    with pytest.raises(FitError, match="none to keep"):
        method().fit(context)
    one = {"strength": 1.0} if method is Asru else {"share": 0.1}
    assert method().fit(replace(context, params=params.model_copy(update=one))).config["r"] >= 1


def test_manu_says_that_nothing_is_to_be_zeroed(tmp_path):
    silent = planted.context(planted.host(), tmp_path, ManuParams())
    with pytest.raises(FitError, match="no neuron"):
        Manu().fit(silent)
