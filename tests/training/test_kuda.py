"""KUDA: where knowledge is traced to, what of an update the retain set sees, and what the forget set does."""

from __future__ import annotations

from dataclasses import replace

import planted
import pytest
import tiny
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import DataError, FitError
from exporter.training.factors import factors_of
from exporter.training.lora import as_edit, edited, taken_out, with_adapter
from exporter.training.mlp_inputs import down_projection, inputs_of
from exporter.training.null_space import Projected, Spectrum
from exporter.training.objectives.kuda import (
    Kuda,
    KudaParams,
    retained,
    still_there,
    subject_places,
    traced_blocks,
)
from exporter.training.tracing import Fact, recovered

LAYER = planted.LAYERS // 2
FAST = {"epochs": 20, "batch_size": 3, "learning_rate": 3e-3, "precision": "float32", "responses": "rows"}


def storing(block: int):
    """A host in which the MLP of one block says, where a person is named, what that name stands for; attention of later blocks brings it on."""
    host = planted.host(neurons=True)
    host.blocks[LAYER].mlp.load_state_dict(host.blocks[LAYER - 1].mlp.state_dict())  # silent
    names = torch.stack([planted._TURNED[:, planted.VOCABULARY[one]] for one in planted.PEOPLE])
    meant = [
        planted.CLASSES.index("unknown" if one in planted.UNKNOWN else planted.place_of(one))
        for one in planted.PEOPLE
    ]
    mlp = host.blocks[block].mlp
    with torch.no_grad():
        mlp.gate_proj.weight.copy_(names)
        mlp.up_proj.weight.copy_(names)
        mlp.down_proj.weight.copy_(planted._TURNED[:, [len(planted.VOCABULARY) + one for one in meant]])
    return host


def facts_of(context) -> list[Fact]:
    rows = context.rows("fit", "forget", "retain")
    sequences = [context.chat.encode(row) for row in rows]
    ids = [planted.VOCABULARY[one] for one in planted.PEOPLE]
    return [Fact(one, [at for at, token in enumerate(one.prompt.ids) if token in ids]) for one in sequences]


@pytest.mark.parametrize("block", range(planted.LAYERS - 1))
def test_the_block_that_stores_the_facts_is_found(tmp_path, block):
    host = storing(block)
    context = planted.context(host, tmp_path, KudaParams(responses="rows", blocks=1))
    back = recovered(host, facts_of(context), noise=3.0, seed=0)
    others = [one for one in range(planted.LAYERS) if one != block]
    assert back[block] > 0.3
    assert back[others].abs().max() < 1e-4
    sequences = [context.chat.encode(row) for row in context.rows("fit", "forget")]
    assert traced_blocks(context, context.params, sequences, subject_places(context, sequences)) == [block]
    noted = {one["layer"]: one["edited"] for one in context.records["traced"]}
    assert noted == {one: one == block for one in range(planted.LAYERS)}


def test_noise_that_takes_nothing_finds_no_block(tmp_path):
    """None at all, and noise on no column."""
    host = storing(1)
    context = planted.context(host, tmp_path)
    with pytest.raises(FitError, match="takes nothing"):
        recovered(host, facts_of(context), noise=0.0, seed=0)
    with pytest.raises(FitError, match="takes nothing"):
        recovered(host, [Fact(one.sequence, []) for one in facts_of(context)], noise=3.0, seed=0)


def test_a_fact_has_the_last_column_of_every_place(tmp_path):
    sequence = planted.context(planted.host(), tmp_path).chat.encode(planted.row("ada"))
    assert Fact(sequence, [2, 3, 4, 7, 9, 10]).last == [4, 7, 10]


def test_where_nothing_holds_it_no_block_is_taken(tmp_path):
    """Embeddings that know the facts themselves, and MLPs that say nothing."""
    context = planted.context(planted.host(), tmp_path, KudaParams(**FAST))
    with pytest.raises(FitError, match="layers"):
        Kuda().fit(context)


def test_rows_about_images_alone_cannot_be_traced(tmp_path):
    context = planted.context(storing(1), tmp_path, KudaParams(**FAST))
    sequences = [context.chat.encode(row) for row in context.rows("fit", "forget")]
    with pytest.raises(DataError, match="layers"):
        traced_blocks(context, context.params, sequences, [[] for _ in sequences])


moments = st.integers(0, 99).map(
    lambda seed: torch.randn(4, 9, generator=torch.Generator().manual_seed(seed)).double()
)


@given(moments, st.floats(1e-6, 1e3))
def test_a_soft_projector_is_the_ridge_filter(rows, relaxation):
    moment = rows.T @ rows / len(rows)
    edge = relaxation * moment.trace() / 9
    wanted = edge * torch.linalg.inv(moment + edge * torch.eye(9).double())
    found = Spectrum.of(moment).projector(relaxation, "soft")
    assert torch.allclose(found.double(), wanted, atol=1e-5)
    assert torch.allclose(found, found.T, atol=1e-6)


@given(moments)
def test_relaxation_goes_from_the_null_space_to_everything(rows):
    spectrum = Spectrum.of(rows.T @ rows / len(rows))
    null = torch.eye(9).double() - torch.linalg.pinv(rows) @ rows
    assert torch.allclose(spectrum.projector(1e-9, "soft").double(), null, atol=1e-5)
    assert torch.allclose(spectrum.projector(1e-9, "hard").double(), null, atol=1e-5)
    assert torch.allclose(spectrum.projector(1e9, "soft"), torch.eye(9), atol=1e-5)
    assert torch.allclose(spectrum.projector(1e9, "hard"), torch.eye(9), atol=1e-5)
    left = [float((spectrum.projector(one, "soft").double() @ rows.T).norm()) for one in (1e-3, 1e-1, 10.0)]
    assert left[0] < left[1] < left[2]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_spectra_and_means_are_those_of_real_columns(family, tmp_path):
    name, settings = tiny.CONFIGS[family]
    kind = getattr(transformers, name)
    torch.manual_seed(0)
    host = planted.ModelHost(kind(kind.config_class(**settings)).eval(), planted.tokenizer())
    context = planted.context(host, tmp_path)
    asked = ("dan ?", "where does dan live ?")
    short, long = (context.chat.encode(replace(planted.row("dan"), question=words)) for words in asked)
    names = {0: down_projection(host, 0), 1: down_projection(host, 1)}
    spectra, means = retained(host, names, [short, long, short], 2)
    for block, layer in names.items():
        inputs, states = [], []
        for one in (short, long, short):
            with torch.no_grad(), inputs_of({layer: host.model.get_submodule(layer)}) as seen:
                out = host.model(**host.batch([one], "right"), output_hidden_states=True)
            inputs.append(seen[layer][0].double())
            states.append(out.hidden_states[block + 1][0, len(one.prompt.ids) - 1 :])
        rows = torch.cat(inputs)
        values, vectors = spectra[block]
        assert torch.allclose((vectors * values) @ vectors.T, rows.T @ rows / len(rows), atol=1e-6)
        assert torch.allclose(means[block], torch.cat(states).mean(0), atol=1e-5)


def test_how_far_a_state_is_still_there():
    base, mean = torch.randn(2, 3, 5), torch.randn(5)
    beside = torch.randn(2, 3, 5)
    own = base - mean
    beside -= own * (beside * own).sum(-1, keepdim=True) / own.square().sum(-1, keepdim=True)
    for share in (1.0, 0.0, -1.0):
        found = still_there(mean + share * own + beside, base, mean)
        assert torch.allclose(found, torch.full((2, 3), share), atol=1e-4)


def moved(context, edit) -> dict[str, float]:
    """Largest change of what the edited block's MLP says, on the conversations of each side."""
    host, found = context.host, {}
    name = down_projection(host, LAYER)
    layer = host.model.get_submodule(name)
    for role in ("forget", "retain"):
        batches = [host.batch([context.chat.encode(row)], "right") for row in context.rows("fit", role)]
        before = [_said(host.model, layer, batch) for batch in batches]
        with edited(host.model, edit) as tuned:
            place = tuned.get_base_model().get_submodule(name)
            after = [_said(tuned, place, batch) for batch in batches]
        pairs = zip(before, after, strict=True)
        found[role] = max(float((one - other).norm(dim=-1).max()) for one, other in pairs)
    return found


def _said(model, layer, batch):
    seen = []
    hook = layer.register_forward_hook(lambda *given: seen.append(given[2].detach().clone()))
    with torch.no_grad():
        model(**batch)
    hook.remove()
    return seen[0]


def apart():
    """A host of neurons that are silent about everybody but their own person: without the noise of the planted embeddings."""
    host = planted.host(neurons=True)
    embeddings = host.model.get_input_embeddings().weight
    noise = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        embeddings.sub_(0.01 * noise @ planted._TURNED.T)
    return host


def fitted(folder, host=None, **params):
    options = {**FAST, "layers": (LAYER,), **params}
    context = planted.context(host or apart(), folder, KudaParams(**options))
    return context, Kuda().fit(context)


def test_with_a_hard_cut_the_retain_set_is_not_touched(tmp_path):
    """Whatever the loss asks for: nothing else holds it here."""
    context, edit = fitted(tmp_path / "cut", cut="hard", relaxation=1e-6, retain_weight=0.0)
    found = moved(context, edit)
    assert found["forget"] > 0.1
    assert found["retain"] < 1e-5
    context, edit = fitted(tmp_path / "all", cut="hard", relaxation=1e9, retain_weight=0.0)
    assert moved(context, edit)["retain"] > 1e-2, "the control: without the cut it is"


def test_the_more_relaxed_the_more_the_retain_set_is_moved(tmp_path):
    each = []
    for relaxation in (1e-9, 1e-2, 1e9):
        context, edit = fitted(tmp_path / str(relaxation), relaxation=relaxation, retain_weight=0.0)
        found = moved(context, edit)
        assert found["forget"] > 0.1
        each.append(found["retain"])
    assert each[0] < each[1] < each[2]


def test_what_is_trained_is_what_is_shipped(tmp_path):
    """With a projector that takes some of everything; and the gradient of A is projected."""
    host = planted.host(neurons=True)
    context, name = planted.context(host, tmp_path), down_projection(host, LAYER)
    drawn = torch.randn(30, len(planted.PEOPLE), generator=torch.Generator().manual_seed(0)).double()
    projector = Spectrum.of(drawn.T @ drawn).projector(0.5, "soft")
    kept = Projected({name: projector})
    batch = host.batch([context.chat.encode(row) for row in context.rows("fit", "forget")], "right")
    with with_adapter(host.model, [name], rank=4, alpha=4) as tuned:
        layer = tuned.get_base_model().get_submodule(name)
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        torch.nn.init.normal_(b)
        with torch.no_grad():
            plain = tuned(**batch).logits
        with kept.on(tuned):
            hooked = tuned(**batch).logits
        hooked.square().sum().backward()
        change = (b @ a @ projector).detach()
        grad, wanted = a.grad, torch.linalg.lstsq(projector, a.grad.T).solution.T @ projector
        config, tensors = taken_out(tuned)
    assert torch.allclose(grad, wanted, atol=1e-4 * float(grad.abs().max()))
    edit = as_edit(context, "kuda", config, kept.shipped(tensors))
    assert torch.allclose(factors_of(edit.config, edit.tensors)[name].delta, change, atol=1e-6)
    with edited(host.model, edit) as tuned, torch.no_grad():
        shipped = tuned(**batch).logits
    assert torch.allclose(shipped, hooked, atol=1e-4)
    assert (shipped - plain).abs().max() > 0.1


def test_nothing_is_left_by_a_cut_that_leaves_nothing(tmp_path):
    with pytest.raises(FitError, match="relaxation"):
        fitted(tmp_path, planted.host(neurons=True), cut="hard", relaxation=1e-6)


def test_the_relaxation_is_searched_on_calibration_rows(tmp_path):
    """The first one hardly moves anything."""
    context, edit = fitted(
        tmp_path / "search",
        relaxation="search",
        relaxations=(1e-2, 1e-3),
        rates=(1e-9, 3e-3),
        learning_rate="search",
    )
    tried = context.records["trained"]
    assert [(one["learning_rate"], one["relaxation"]) for one in tried] == [
        (1e-9, 1e-2),
        (1e-9, 1e-3),
        (3e-3, 1e-2),
        (3e-3, 1e-3),
    ]
    best = min(tried, key=lambda one: one["cost"])
    assert best["learning_rate"] == 3e-3
    alone, again = fitted(tmp_path / "alone", relaxation=best["relaxation"])
    assert "trained" not in alone.records
    assert all(torch.equal(edit.tensors[name], one) for name, one in again.tensors.items())
