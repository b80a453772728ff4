"""Collected states are those of single rows, and a spill is either the very same bytes or another file."""

from dataclasses import replace

import numerals
import numpy as np
import pytest
import tiny
import torch
from rich.console import Console

from exporter.errors import DataError, FitError
from exporter.fitting import activations
from exporter.fitting.activations import _head_key, _item_key, collect, model_digest, progress_bar
from exporter.fitting.pooling import PooledSequence
from exporter.fitting.state_store import StateStore
from exporter.types import Encoded, Prompt

LAYERS = (0, 2, 3)


def sequences(family, folder):
    """Forced responses with a pool each for the prompt's end, the whole prompt, and the response."""
    items = []
    for number, prompt in enumerate(numerals.prompts(family, folder)):
        one = Encoded(prompt, tuple(range(10, 12 + number % 3)))
        end = one.prompt_end
        items.append(PooledSequence(one, ((end,), tuple(range(end + 1)), tuple(range(end + 1, len(one))))))
    return items


def reference(host, items, layers=LAYERS):
    """The same means, from one unpadded forward pass per sequence and layer."""
    rows = []
    for item in items:
        inputs = host.batch([item.sequence], "right")
        states = [tiny.block_states(host.model, inputs, layer)[0].float() for layer in layers]
        rows += [torch.stack([one[list(pool)].mean(0) for one in states]) for pool in item.pools]
    return torch.stack(rows)


def passes(host, counted):
    """Counts forward passes into a list; returns the handle."""
    return host.model.get_decoder().register_forward_pre_hook(lambda *_: counted.append(1))


def hooks(host):
    return sum(len(block._forward_hooks) for block in host.blocks)


def spills(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_states_are_those_of_single_rows(family, side, tmp_path):
    host = numerals.host(family)
    items = sequences(family, tmp_path)
    want = reference(host, items)
    for size in (1, 2, 3, 32):
        found = collect(host, items, LAYERS, tmp_path / "spill", batch_size=size, side=side, progress=False)
        states = found.states
        torch.testing.assert_close(states, want, rtol=1e-3, atol=1e-4)
        assert found.starts.tolist() == [0, 3, 6, 9, 12, 15]
        assert torch.equal(found.at(2), states[:, 1])
        assert torch.equal(found.of(3, 3), states[9:12, 2])


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava", "llama"])
def test_left_padded_text_alone(family, tmp_path):
    host = numerals.host(family)
    items = sequences("llama", tmp_path)
    found = collect(host, items, LAYERS, tmp_path / "spill", side="left", progress=False)
    torch.testing.assert_close(found.states, reference(host, items), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "llava"])
def test_statistics_of_a_bfloat16_model_are_float32(family, tmp_path):
    host = numerals.host(family, dtype=torch.bfloat16)
    items = sequences(family, tmp_path)
    found = collect(host, items, LAYERS, tmp_path / "spill", batch_size=1, progress=False)
    states = found.states
    assert found.states.dtype == torch.float32
    torch.testing.assert_close(states, reference(host, items), rtol=1e-6, atol=1e-6)
    wide = states[1::3]
    assert not torch.equal(wide, wide.bfloat16().float())


@pytest.mark.parametrize("side", ["left", "right"])
def test_agreement_says_whether_the_model_would_have_said_the_next_token(side, tmp_path):
    host = numerals.host()
    items = []
    for number, prompt in enumerate(numerals.prompts("llama", tmp_path)):
        said = list(host.generate([prompt], max_new_tokens=4)[0].tokens)
        if number % 2:
            said[1] = (said[1] + 1) % tiny.VOCAB
        one = Encoded(prompt, tuple(said))
        end = one.prompt_end
        items.append(PooledSequence(one, ((end,), (end, end + 1), (end + 1,), (len(one) - 1,))))
    found = collect(host, items, [1], tmp_path / "spill", batch_size=2, side=side, progress=False)
    for number, agrees in enumerate(found.agrees.reshape(len(items), -1).tolist()):
        assert agrees == [1, -1, 1 - number % 2, -1]


def test_an_interrupted_run_is_taken_up_where_it_stopped(tmp_path, monkeypatch):
    host = numerals.host()
    items = sequences("llama", tmp_path)
    whole = collect(host, items, LAYERS, tmp_path / "whole", batch_size=1, progress=False)
    real, done = activations.pooled_pass, []

    def interrupted(*args):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(1)
        return real(*args)

    monkeypatch.setattr(activations, "pooled_pass", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collect(host, items, LAYERS, tmp_path / "cut", batch_size=1, progress=False)
    monkeypatch.undo()
    assert spills(tmp_path / "cut") != spills(tmp_path / "whole")
    counted = []
    handle = passes(host, counted)
    again = collect(host, items, LAYERS, tmp_path / "cut", batch_size=1, progress=False)
    assert len(counted) == len(items) - 3
    assert spills(tmp_path / "cut") == spills(tmp_path / "whole")
    assert torch.equal(again.states, whole.states)
    collect(host, items, LAYERS, tmp_path / "cut", batch_size=1, progress=False)
    handle.remove()
    assert len(counted) == len(items) - 3


def test_interrupted_while_a_batch_is_written(tmp_path, monkeypatch):
    host = numerals.host()
    items = sequences("llama", tmp_path)
    collect(host, items, LAYERS, tmp_path / "whole", batch_size=2, progress=False)
    real = StateStore.add

    def torn(self, pools, states, agrees):
        real(self, pools, states, agrees)
        if self._next == 2:
            (self.folder / "000001.json").unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(StateStore, "add", torn)
    with pytest.raises(KeyboardInterrupt):
        collect(host, items, LAYERS, tmp_path / "cut", batch_size=2, progress=False)
    monkeypatch.undo()
    collect(host, items, LAYERS, tmp_path / "cut", batch_size=2, progress=False)
    assert spills(tmp_path / "cut") == spills(tmp_path / "whole")


@pytest.mark.parametrize("ending", [".npy", ".json"])
@pytest.mark.parametrize("keep", [None, 20, -3])
def test_a_damaged_batch_is_made_again(ending, keep, tmp_path):
    host = numerals.host()
    items = sequences("llama", tmp_path)
    whole = collect(host, items, LAYERS, tmp_path / "spill", batch_size=2, progress=False).states
    path = next(path for path in sorted((tmp_path / "spill").rglob("*")) if path.suffix == ending)
    content = path.read_bytes()
    path.unlink()
    if keep is not None:
        path.write_bytes(content[:keep])
    again = collect(host, items, LAYERS, tmp_path / "spill", batch_size=2, progress=False)
    assert torch.equal(again.states, whole)


def test_no_sequence_is_run_twice_whoever_asks_for_it(tmp_path):
    host = numerals.host()
    items = sequences("llama", tmp_path)
    counted = []
    handle = passes(host, counted)
    some = collect(host, [*items[:2], items[0]], LAYERS, tmp_path / "spill", batch_size=1, progress=False)
    assert len(counted) == 2
    assert torch.equal(some.of(0, 2), some.of(2, 2))
    whole = collect(host, items, LAYERS, tmp_path / "spill", batch_size=1, progress=False)
    assert len(counted) == len(items)
    assert torch.equal(whole.of(1, 3), some.of(1, 3))
    collect(host, items[::-1], LAYERS, tmp_path / "spill", batch_size=3, progress=False)
    handle.remove()
    assert len(counted) == len(items)


@pytest.mark.parametrize("family", [name for name in tiny.CONFIGS if name != "llava"])
def test_states_behind_a_shared_beginning_are_those_of_whole_sequences(family, tmp_path):
    host = numerals.host(family)
    head = tuple(range(10, 22))
    items = [
        PooledSequence(
            Encoded(Prompt("", (*head, 10 + n, 12)), (11, 13 + n % 3)), ((3, 12), (13,), (14,), (2,))
        )
        for n in range(6)
    ]
    alone = [collect(host, [item], LAYERS, tmp_path / str(n), progress=False) for n, item in enumerate(items)]
    columns = []
    handle = host.blocks[0].register_forward_pre_hook(
        lambda _m, args, kwargs: columns.append((args[0] if args else kwargs["hidden_states"]).shape[1]),
        with_kwargs=True,
    )
    together = collect(host, items, LAYERS, tmp_path / "together", batch_size=4, progress=False)
    handle.remove()
    assert columns == [12, 4, 4]
    torch.testing.assert_close(
        together.states, torch.cat([one.states for one in alone]), rtol=1e-3, atol=1e-4
    )
    assert together.agrees.tolist() == [value for one in alone for value in one.agrees.tolist()]


def test_the_same_request_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        collect(numerals.host("llava"), sequences("llava", tmp_path), LAYERS, tmp_path / name, progress=False)
    assert spills(tmp_path / "one") == spills(tmp_path / "two")


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_a_shared_beginning_does_not_count_on_from_images_before(family, tmp_path):
    host = numerals.host(family)
    head = tuple(range(10, 22))
    items = [
        PooledSequence(Encoded(Prompt("", (*head, 10 + n, 12)), (11, 13)), ((3, 12), (13,))) for n in range(6)
    ]
    alone = collect(host, items, LAYERS, tmp_path / "alone", progress=False).states
    collect(host, sequences(family, tmp_path), LAYERS, tmp_path / "images", progress=False)
    again = collect(host, items, LAYERS, tmp_path / "again", progress=False).states
    torch.testing.assert_close(again, alone, rtol=1e-4, atol=1e-5)


def test_other_content_is_run_anew(tmp_path):
    host = numerals.host("llava")
    first = sequences("llava", tmp_path)[0]
    other = replace(first.sequence.prompt, images=(numerals.picture(tmp_path / "other.png", 50),))
    variants = [
        replace(first, pools=first.pools[:2]),
        replace(first, sequence=replace(first.sequence, response=(11, 10))),
        replace(first, sequence=replace(first.sequence, prompt=other)),
    ]
    assert len({_item_key(one) for one in (first, *variants)}) == len(variants) + 1
    heads = [
        _head_key(host, LAYERS, "right"),
        _head_key(host, (0, 2), "right"),
        _head_key(host, LAYERS, "left"),
        _head_key(numerals.host("llava", seed=1), LAYERS, "right"),
        _head_key(numerals.host("llava", dtype=torch.bfloat16), LAYERS, "right"),
    ]
    assert len(set(heads)) == len(heads)
    assert _head_key(numerals.host("llava"), LAYERS, "right") == heads[0]
    before = _item_key(first)
    numerals.picture(first.sequence.prompt.images[0], 51)
    assert _item_key(first) != before


def test_every_weight_and_the_config_tell_models_apart():
    host = numerals.host()
    before = model_digest(host.model)
    assert model_digest(host.model) == before == model_digest(numerals.host().model)
    weight = host.model.get_input_embeddings().weight
    with torch.no_grad():
        weight[-1, -1] += 0.5
    moved = model_digest(host.model)
    assert moved != before
    with torch.no_grad():
        weight[-1, -1] -= 0.5
    other = numerals.host()
    other.model.config.rope_parameters = {"rope_type": "default", "rope_theta": 5.0}
    assert model_digest(other.model) != before


def test_only_pooled_vectors_are_kept_and_they_are_mapped(tmp_path):
    host = numerals.host()
    items = sequences("llama", tmp_path)
    found = collect(host, items, LAYERS, tmp_path / "spill", progress=False)
    assert all(isinstance(one.states, np.memmap) for one in found.stored)
    (states,) = [np.load(path) for path in (tmp_path / "spill").rglob("*.npy")]
    assert states.shape == (15, len(LAYERS), tiny.D)


def test_non_finite_states_are_an_error(tmp_path):
    host = numerals.host()
    with torch.no_grad():
        host.blocks[1].mlp.down_proj.weight[0] = torch.inf
    with pytest.raises(FitError, match="non-finite"):
        collect(host, sequences("llama", tmp_path), LAYERS, tmp_path / "spill", progress=False)
    assert hooks(host) == 0


def test_hooks_go_away_after_an_exception_in_the_model(tmp_path):
    host = numerals.host()
    items = sequences("llama", tmp_path)
    during = []

    def broken(*_):
        during.append(hooks(host))
        raise RuntimeError("out of memory")

    handle = host.blocks[3].mlp.register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        collect(host, items, LAYERS, tmp_path / "spill", progress=False)
    handle.remove()
    assert during == [len(LAYERS)]
    assert hooks(host) == 0
    collect(host, items, LAYERS, tmp_path / "spill", progress=False)
    assert hooks(host) == 0


def test_nothing_to_collect_says_what_was_wanted(tmp_path):
    with pytest.raises(FitError, match="refusals"):
        collect(numerals.host(), [], LAYERS, tmp_path, title="refusals")


def test_a_missing_image_is_named(tmp_path):
    items = sequences("llava", tmp_path)
    items[0].sequence.prompt.images[0].unlink()
    with pytest.raises(DataError, match=r"llava0\.png"):
        collect(numerals.host("llava"), items, LAYERS, tmp_path / "spill", progress=False)


@pytest.mark.parametrize(("asked", "terminal"), [(True, True), (True, False), (False, True)])
def test_the_bar_is_quiet_where_nobody_sees_it(asked, terminal, monkeypatch, capsys, tmp_path):
    import rich

    monkeypatch.setattr(rich, "_console", Console(force_terminal=terminal, width=80))
    assert progress_bar(asked).disable is not (asked and terminal)
    collect(
        numerals.host(), sequences("llama", tmp_path), LAYERS, tmp_path / "s", progress=asked, title="gates"
    )
    shown = "".join(capsys.readouterr())
    assert ("gates" in shown) is (asked and terminal)
    assert bool(shown) is (asked and terminal)
