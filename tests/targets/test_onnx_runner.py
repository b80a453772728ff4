"""The runner that travels with an exported folder: it says what the checkpoint says, on every path a runtime can take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx_bed
import pytest
import tiny
import tiny_run
import torch
from onnx_bed import FORGET, MODES, RETAIN, Bed, damaged, runner, whole
from transformers import LlamaForCausalLM

from exporter import errors, pipeline
from exporter.errors import InputErrors
from exporter.targets.checkpoint import compile_checkpoint
from exporter.targets.onnx.host import OnnxHost
from exporter.targets.onnx_runner import (
    FolderError,
    NotFinite,
    OnnxModel,
    Sampling,
    left_padded,
    refuse_not_finite,
)
from exporter.types import Prompt
from steer_modules.attach import steered
from steer_modules.program import Edit
from steer_modules.state import gates_on

bed = onnx_bed.bed


@pytest.mark.parametrize("mode", MODES)
def test_tokens_and_gates_are_those_of_the_checkpoint(bed, mode):
    prompts = [FORGET, RETAIN, "<s> [user] home of ada ? [assistant]"]
    model = runner(bed, mode)
    found = model.generate([model.encode(text) for text in prompts], max_new_tokens=8)
    with steered(bed.base, bed.program):
        for text, said in zip(prompts, found, strict=True):
            ids = bed.ids(text)
            out = bed.base.generate(ids, max_new_tokens=8, do_sample=False, return_dict_in_generate=True)
            assert said.tokens == out.sequences[0, ids.shape[1] :].tolist()
            assert said.gates == {"topic": float(gates_on(out.past_key_values, 1)[0, 0])}
    assert [one.gates["topic"] for one in found[:2]] == [1.0, 0.0]


def conversation(bed: Bed) -> torch.Tensor:
    """Three turns in one row; the second asks for what is forgotten."""
    return torch.cat(
        [bed.ids(RETAIN), torch.tensor([[9, 20]]), bed.ids(FORGET), torch.tensor([[8]]), bed.ids(RETAIN)],
        dim=1,
    )


@pytest.mark.parametrize("mode", ["io", "kv"])
def test_any_cut_of_a_conversation_gives_the_same_gates_and_logits(bed, mode):
    model, ids = runner(bed, mode), conversation(bed)
    wanted, length = whole(bed, ids), ids.shape[1]
    first = bed.ids(RETAIN).shape[1]
    assert wanted.steering_gate[0, :, 0].any() and not wanted.steering_gate[0, : first + 2, 0].any()
    for cuts in (
        [length],
        list(range(1, length + 1)),
        [first - 1, first, first + 3, length],
        [length - 1, length],
    ):
        state, logits, gates = model.empty(1), [], []
        for start, stop in zip([0, *cuts], cuts, strict=False):
            logits.append(model.advance(state, ids[:, start:stop].numpy()))
            gates.append(state.columns)
        np.testing.assert_array_equal(np.concatenate(gates, axis=1), wanted.steering_gate.numpy())
        np.testing.assert_allclose(np.concatenate(logits, axis=1), wanted.logits.numpy(), atol=1e-4)
        assert state.gates.tolist() == [[1.0]] and state.ids == ids.tolist()


@pytest.mark.parametrize("mode", ["io", "kv"])
def test_a_state_goes_on_from_turn_to_turn(bed, mode):
    """Two prompts of different lengths, answered, asked again behind a state; and the rows taken in another order."""
    model = runner(bed, mode)
    turns = [
        [model.encode(RETAIN), model.encode(FORGET)],
        [model.encode(FORGET), model.encode("[user] ada ? [assistant]")],
    ]
    state = model.empty(2)
    held: list[list[int]] = [[], []]
    for prompts in turns:
        before = [len(ids) for ids in state.ids]
        for row, prompt in enumerate(prompts):
            held[row] += prompt
        rest = [state.rest(row, held[row]) for row in range(2)]
        said = model.generate(rest, max_new_tokens=5, state=state)
        alone = model.generate(held, max_new_tokens=5)
        assert [one.tokens for one in said] == [one.tokens for one in alone]
        assert [one.gates for one in said] == [one.gates for one in alone]
        for row, one in enumerate(said):
            assert state.ids[row] == held[row] + one.tokens[: len(state.ids[row]) - len(held[row])]
            assert len(state.ids[row]) > before[row]
            held[row] += one.tokens
    assert state.rest(0, [1, 2, 3]) is None and state.rest(0, state.ids[0]) is None
    turned = state.select([1, 0, 1])
    token = np.array([[9]])
    logits = model.advance(turned, np.repeat(token, 3, 0))
    wanted = model.advance(state, np.repeat(token, 2, 0))[[1, 0, 1]]
    np.testing.assert_allclose(logits, wanted, atol=1e-5)
    assert turned.ids == [state.ids[row] for row in (1, 0, 1)]


def test_rows_that_have_ended_are_padded(bed):
    """An answer that ended must not go on inside the state, where it could switch a gate."""
    model = runner(bed, "io")
    prompts = [model.encode(RETAIN), model.encode(FORGET)]
    first = model.generate(prompts, max_new_tokens=6)[0].tokens
    model.end_ids = {first[2]}
    state = model.empty(2)
    said = model.generate(prompts, max_new_tokens=6, state=state)
    cut = first.index(first[2]) + 1
    assert said[0].tokens == first[:cut]
    assert state.ids[0] == prompts[0] + first[: cut - 1]


def test_padding_on_the_right_and_holes_behind_it_change_nothing(bed):
    """onnxruntime-genai pads batches on the right and leaves the padding in the cache."""
    model = runner(bed, "kv")
    prompts = [model.encode(FORGET), model.encode(RETAIN)]
    width = max(map(len, prompts))
    ids = np.array([one + [0] * (width - len(one)) for one in prompts])
    mask = np.array([[1] * len(one) + [0] * (width - len(one)) for one in prompts])
    state, logits = model.start(ids, mask)
    alone = [model.start(*left_padded([one], 0)) for one in prompts]
    assert state.gates.tolist() == [[1.0], [0.0]]
    after = model.advance(state, np.full((2, 3), 9), np.array([[1, 0, 1], [0, 1, 1]]))
    for row, (one, (single, expected)) in enumerate(zip(prompts, alone, strict=True)):
        np.testing.assert_allclose(logits[row, : len(one)], expected[0], atol=1e-4)
        wanted = model.advance(single, np.full((1, 2), 9))
        np.testing.assert_allclose(after[row, -1], wanted[0, -1], atol=1e-4)
        assert single.gates[0, 0] == state.gates[row, 0]


def test_padding_behind_an_open_gate_is_steered(bed):
    """Whoever reads its logits must not be answered by the base; the checkpoint says the same."""
    model = runner(bed, "io")
    one = model.encode(FORGET)
    ids, mask = np.array([one + [0] * 3]), np.array([[1] * len(one) + [0] * 3])
    places = torch.from_numpy(np.maximum(mask.cumsum(-1) - 1, 0))
    _, on = model.start(ids, mask)
    _, off = model.start(ids, mask, gates=np.zeros((1, 1), np.float32))
    wanted = whole(bed, torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), position_ids=places)
    assert np.abs(on - off)[0, -3:].max(-1).min() > 0.1
    np.testing.assert_allclose(on, wanted.logits.numpy(), atol=1e-4)


def test_given_gates_stand(bed):
    model = runner(bed, "io")
    ids, mask = left_padded([model.encode(FORGET), model.encode(RETAIN)], 0)
    for given in ([[0.0], [0.0]], [[1.0], [1.0]], [[0.0], [1.0]]):
        state, logits = model.start(ids, mask, gates=np.array(given, np.float32))
        assert state.gates.tolist() == given
        wanted = whole(
            bed,
            torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask),
            position_ids=torch.from_numpy(np.maximum(mask.cumsum(-1) - 1, 0)),
            steering_gate=torch.tensor(given),
        )
        np.testing.assert_allclose(logits[mask > 0], wanted.logits.numpy()[mask > 0], atol=1e-4)
        np.testing.assert_array_equal(state.columns[mask > 0], wanted.steering_gate.numpy()[mask > 0])
    with pytest.raises(FolderError, match="gate-state io"):
        runner(bed, "kv").start(ids, mask, gates=np.zeros((2, 1), np.float32))


@pytest.mark.parametrize("gated", [True, False])
def test_gates_of_each_token_and_edits_that_are_always_on(bed, tmp_path, gated):
    tiny_run.write_base(tmp_path / "base", layers=2)
    base = LlamaForCausalLM.from_pretrained(tmp_path / "base").eval()
    fires, stays = ({"input_ids": bed.ids(text)} for text in (FORGET, RETAIN))
    gate = tiny.gate_between(base, fires, stays, layer=0, pool="token")
    always = Edit(1, None, "add", "all", strength=0.2, tensors={"vector": torch.ones(32)})
    program = tiny.program(base, [gate] if gated else [], [tiny.turn(0), always] if gated else [always])
    program = replace(program, headers=())
    compile_checkpoint(tmp_path / "base", program, tmp_path / "checkpoint")
    model = OnnxModel(pipeline.export("onnx", tmp_path / "checkpoint", tmp_path / "onnx"), provider="cpu")
    assert model.gate_names == (["topic"] if gated else [])
    assert ("steering_state" in model.inputs) == gated
    found = model.generate([model.encode(FORGET), model.encode(RETAIN)], max_new_tokens=8)
    with steered(base, program):
        for text, said in zip((FORGET, RETAIN), found, strict=True):
            ids = bed.ids(text)
            wanted = base.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :].tolist()
            assert said.tokens == wanted


_ALONE = """
import importlib.abc, runpy, sys
class Only(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "jinja2", "exporter", "steer_modules", "onnx", "safetensors"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Only())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def alone(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the folder's own runner where there is only ONNX Runtime, numpy, tokenizers and pillow."""
    command = [sys.executable, "-c", _ALONE, str(folder / "steerbake_runner.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": ""}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_carried_runner_needs_nothing_of_ours(bed):
    done = alone(bed.folder("io"), "--prompt", "where does ada live ?", "--json", "--max-new-tokens", "6")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    with steered(bed.base, bed.program):
        ids = bed.ids(FORGET)
        wanted = bed.base.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :].tolist()
    assert said["tokens"] == wanted and said["gates"] == {"topic": 1.0}
    assert "CPUExecutionProvider" in done.stderr


def test_the_carried_runner_says_what_is_wrong(bed, tmp_path):
    folder = damaged(bed, tmp_path)
    asked = ("--prompt", "where ?")
    assert "no variant fp64" in alone(folder, *asked, "--dtype", "fp64").stderr
    assert "does not accept images" in alone(folder, *asked, "--image", "x.png").stderr
    (folder / "tokenizer.json").write_text("{}")
    done = alone(folder, *asked)
    assert (
        done.returncode == 2
        and "tokenizer.json has 2 bytes" in done.stderr
        and "Traceback" not in done.stderr
    )


def test_scores_that_are_no_numbers_are_refused_by_row() -> None:
    """Of rows that have ended nothing is asked, and a word that is ruled out is no damage."""
    logits = np.array([[0.0, -np.inf], [np.nan, 1.0], [np.inf, 0.0]])
    refuse_not_finite(logits, [True, False, False])
    for rows, place in (([True, True, True], 1), ([True, False, True], 2)):
        with pytest.raises(NotFinite, match="not finite") as caught:
            refuse_not_finite(logits, rows)
        assert caught.value.place == place
    with pytest.raises(NotFinite):
        refuse_not_finite(np.full((1, 2), -np.inf), [True])


def test_the_prompt_whose_scores_are_no_numbers_is_named() -> None:
    """Batches are sorted by length; the place is that of the prompt as it was given."""

    def broken(*_: object, **__: object) -> None:
        raise NotFinite(1)

    model = SimpleNamespace(manifest={"pad_id": 0, "image": None}, generate=broken)
    host = OnnxHost(model, SimpleNamespace())
    host._images = lambda _: None
    with pytest.raises(errors.NotFinite) as caught:
        host.generate([Prompt("long", (1, 2, 3)), Prompt("short", (1,))], max_new_tokens=1)
    assert caught.value.place == 0


def test_sampling_draws_from_what_is_left():
    logits = np.log(np.array([[0.5, 0.3, 0.15, 0.05]]))
    drawn = {tuple(Sampling(1.0, top_p=0.79, seed=seed).choose(logits)) for seed in range(60)}
    assert drawn == {(0,), (1,)}
    assert {int(Sampling(1.0, top_k=3, seed=seed).choose(logits)[0]) for seed in range(99)} == {0, 1, 2}
    assert Sampling(0.0).choose(logits).tolist() == [0]
    again = [Sampling(2.0, seed=7).choose(np.repeat(logits, 20, 0)).tolist() for _ in range(2)]
    assert again[0] == again[1] and len(set(again[0])) > 1


def test_talk_remembers_and_is_the_same_on_both_targets(bed):
    """Two questions in a row; the second is put with the first and its reply."""
    said = []
    for folder in (bed.checkpoint, bed.folder("io")):
        pieces: list[str] = []
        talk = pipeline.talk(folder, say=pieces.append)
        answers = [
            talk.say(one, pieces.append, 5) for one in ("where does cora live ?", "where does ada live ?")
        ]
        assert "".join(pieces[1:]).strip() and len(talk.history) == 2
        said.append([(one.tokens, one.gates) for one in answers])
    assert said[0] == said[1]
    with pytest.raises(InputErrors, match="float32"):
        pipeline.talk(bed.checkpoint, dtype="fp8", say=print)


def test_a_stream_goes_on_from_its_state(bed, monkeypatch):
    """Only what a conversation has more is computed; another one starts anew."""
    host = OnnxHost.load(bed.folder("io"), bed.tokenizer, threads=1)
    widths: list[int] = []
    advance = host.model.advance
    monkeypatch.setattr(
        host.model,
        "advance",
        lambda state, ids, *rest: widths.append(ids.shape[1]) or advance(state, ids, *rest),
    )
    state, asked = host.model.empty(1), {"max_new_tokens": 4, "sampling": Sampling()}
    first = Prompt(RETAIN, tuple(host.model.encode(RETAIN)))
    said = host.stream(first, lambda _token: None, state=state, **asked)
    longer = Prompt("", first.ids + said.tokens + tuple(host.model.encode(FORGET)))
    again = host.stream(longer, lambda _token: None, state=state, **asked)
    whole = [len(first.ids), len(longer.ids) - len(first.ids) - len(said.tokens) + 1]
    assert [width for width in widths if width > 1] == whole
    assert again == host.stream(longer, lambda _token: None, **asked)
    assert host.stream(first, lambda _token: None, state=state, **asked) == said
    assert state.ids[0][: len(first.ids)] == list(first.ids)
