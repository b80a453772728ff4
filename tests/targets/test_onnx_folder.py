"""An exported folder: whole or absent, refused when damaged, and steered on every path a runtime can take through it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import tiny
import tiny_run
import torch
from onnx import numpy_helper
from transformers import AutoTokenizer, LlamaForCausalLM

from exporter import pipeline
from exporter.errors import CompileError, InputErrors, VerificationError
from exporter.targets.checkpoint import compile_checkpoint
from exporter.targets.onnx import quantize, single_file
from exporter.targets.onnx.host import OnnxHost
from exporter.targets.onnx.target import OnnxOptions as Options
from exporter.targets.onnx_runner import FolderError, OnnxModel, Sampling, left_padded, sha256_of
from exporter.types import Prompt
from steer_modules.attach import steered
from steer_modules.program import Edit, Gate, SteeringProgram
from steer_modules.state import gates_on

FORGET = "<s> [user] where does ada live ? [assistant]"
RETAIN = "<s> [user] tell me where cora lives . [assistant]"
MODES = {
    "io": Options(dtypes=("fp32", "int8")),
    "kv": Options(layout="genai"),
    "js": Options(layout="transformersjs"),
}


class Bed(NamedTuple):
    home: Path
    base: Any
    program: SteeringProgram
    tokenizer: Any

    @property
    def checkpoint(self) -> Path:
        return self.home / "checkpoint"

    def ids(self, text: str) -> torch.Tensor:
        return self.tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids

    def folder(self, mode: str) -> Path:
        """Exported when it is first asked for."""
        out = self.home / mode
        if not out.exists():
            options = MODES[mode] if mode in MODES else Options(steered=False)
            pipeline.export("onnx", self.checkpoint, out, options)
        return out


@pytest.fixture(scope="module")
def bed(tmp_path_factory) -> Bed:
    home = tmp_path_factory.mktemp("onnx")
    tiny_run.write_base(home / "base")
    (home / "base" / "LICENSE").write_text("Apache License\n")
    model = LlamaForCausalLM.from_pretrained(home / "base").eval()
    tokenizer = AutoTokenizer.from_pretrained(home / "base")
    fires, stays = (
        {"input_ids": tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids}
        for text in (FORGET, RETAIN)
    )
    gate = tiny.gate_between(model, fires, stays, layer=0)
    basis = torch.linalg.qr(torch.randn(32, 3, generator=torch.Generator().manual_seed(4))).Q.contiguous()
    edits = [
        Edit(0, "topic", "project", "from_gate", tensors={"basis": basis}),
        tiny.turn(2),
        tiny.turn(3, seed=9),
    ]
    program = program_of(model, [gate], edits)
    compile_checkpoint(home / "base", program, home / "checkpoint")
    return Bed(home, model, program, tokenizer)


def program_of(model: Any, gates: list[Gate], edits: list[Edit]) -> SteeringProgram:
    return replace(tiny.program(model, gates, edits), headers=(tiny_run.ASSISTANT,))


def runner(bed: Bed, mode: str, **options: Any) -> OnnxModel:
    return OnnxModel(bed.folder(mode), provider="cpu", threads=1, **options)


def damaged(bed: Bed, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bed.folder("io"), tmp_path / "broken"))


def test_the_folder_says_what_it_is(bed):
    folder = bed.folder("io")
    manifest = json.loads((folder / "steerbake.json").read_text())
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert set(manifest["files"]) == there - {"steerbake.json"}
    assert {
        "onnx/model.onnx",
        "onnx/model_int8.onnx",
        "steerbake_runner.py",
        "tokenizer.json",
        "LICENSE",
    } <= there
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "llama" and config["architectures"] == ["LlamaForCausalLM"]
    assert not {"auto_map", "steering"} & set(config)
    told = {p.key: p.value for p in onnx.load(folder / "onnx" / "model.onnx").metadata_props}
    assert told["steerbake.base_fingerprint"].startswith("sha256:")
    assert "Apache" in told["steerbake.license"]
    assert json.loads(told["steerbake.steering"])["sha256"] == told["steerbake.steering_sha256"]


@pytest.mark.parametrize("name", ["model.onnx", "model_int8.onnx"])
def test_every_graph_holds_the_program_of_the_checkpoint(bed, name):
    model = onnx.load(bed.folder("io") / "onnx" / name)
    onnx.checker.check_model(model)
    section = json.loads({p.key: p.value for p in model.metadata_props}["steerbake.steering"])
    tensors = {
        t.name: torch.from_numpy(numpy_helper.to_array(t).copy())
        for t in model.graph.initializer
        if t.name.startswith("steering.")
    }
    assert SteeringProgram.parse(section, tensors).sha256 == section["sha256"]
    nodes = [(n.op_type, n.overload) for n in model.graph.node if n.domain == "steerbake"]
    assert sorted(nodes) == [
        ("SteeringGate", "topic"),
        ("SteeringHeaders", ""),
        ("SteeringLayer", "0"),
        ("SteeringLayer", "2"),
        ("SteeringLayer", "3"),
    ]
    text = model.SerializeToString()
    assert str(Path.cwd()).encode() not in text and b"site-packages" not in text


def test_inspect_reads_the_program_out_of_the_graph(bed):
    found = pipeline.inspect(bed.folder("io"))
    assert found.kind == "onnx folder" and found.program.sha256 == found.section["sha256"]
    with pytest.raises(VerificationError, match="unsteered"):
        pipeline.inspect(bed.folder("unsteered"))


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


def whole(bed: Bed, ids: torch.Tensor, **given: Any) -> Any:
    with steered(bed.base, bed.program), torch.no_grad():
        return bed.base(input_ids=ids, **given)


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
    fires, stays = ({"input_ids": bed.ids(text)} for text in (FORGET, RETAIN))
    gate = tiny.gate_between(bed.base, fires, stays, layer=0, pool="token")
    always = Edit(3, None, "add", "all", strength=0.2, tensors={"vector": torch.ones(32)})
    program = replace(
        tiny.program(bed.base, [gate] if gated else [], [tiny.turn(1), always] if gated else [always]),
        headers=(),
    )
    compile_checkpoint(bed.home / "base", program, tmp_path / "checkpoint")
    model = OnnxModel(pipeline.export("onnx", tmp_path / "checkpoint", tmp_path / "onnx"), provider="cpu")
    assert model.gate_names == (["topic"] if gated else [])
    assert ("steering_state" in model.inputs) == gated
    found = model.generate([model.encode(FORGET), model.encode(RETAIN)], max_new_tokens=8)
    with steered(bed.base, program):
        for text, said in zip((FORGET, RETAIN), found, strict=True):
            ids = bed.ids(text)
            wanted = bed.base.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :].tolist()
            assert said.tokens == wanted


def test_an_unsteered_export_is_the_base_and_says_so(bed):
    out = bed.folder("unsteered")
    said: list[str] = []
    model = OnnxModel(out, provider="cpu", say=said.append)
    assert "UNSTEERED" in said[0]
    assert not any(node.domain == "steerbake" for node in onnx.load(out / "onnx" / "model.onnx").graph.node)
    ids, mask = left_padded([model.encode(FORGET)], 0)
    with torch.no_grad():
        np.testing.assert_allclose(
            model.start(ids, mask)[1], bed.base(torch.from_numpy(ids)).logits.numpy(), atol=1e-4
        )


def test_damage_is_refused(bed, tmp_path):
    folder = damaged(bed, tmp_path)
    graph = folder / "onnx" / "model.onnx"
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-100])
    with pytest.raises(FolderError, match="truncated"):
        OnnxModel(folder)
    graph.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    with pytest.raises(FolderError, match="altered"):
        OnnxModel(folder)
    graph.unlink()
    with pytest.raises(FolderError, match=r"model\.onnx is missing"):
        OnnxModel(folder)
    (folder / "steerbake.json").write_text('{"format": "steerbake-onnx/1"}')
    with pytest.raises(FolderError, match="export it again"):
        OnnxModel(folder)
    (folder / "steerbake.json").write_text("{}")
    with pytest.raises(FolderError, match="format"):
        OnnxModel(folder)
    (folder / "steerbake.json").unlink()
    with pytest.raises(FolderError, match=r"steerbake\.json"):
        OnnxModel(folder)


def test_weights_beside_a_graph_are_part_of_the_folder(bed, tmp_path, monkeypatch):
    """What happens past 2 GB, at a limit that a tiny model is past."""
    monkeypatch.setattr(single_file, "LARGEST", 1000)
    options = Options(dtypes=("fp32", "q4"), layout="transformersjs")
    folder = pipeline.export("onnx", bed.checkpoint, tmp_path / "large", options)
    data = folder / "onnx" / "model.onnx_data"
    assert (
        data.stat().st_size > 20_000 > (folder / "onnx" / "model.onnx").stat().st_size - data.stat().st_size
    )
    config = json.loads((folder / "config.json").read_text())
    assert "model.onnx" in config["transformers.js_config"]["use_external_data_format"]
    for dtype in ("fp32", "q4"):
        model = OnnxModel(folder, provider="cpu", dtype=dtype)
        assert model.generate([model.encode(FORGET)], max_new_tokens=2)[0].gates == {"topic": 1.0}
    assert (
        pipeline.inspect(folder).program.sha256
        == json.loads((folder / "steerbake.json").read_text())["steering"]["sha256"]
    )
    whole = data.read_bytes()
    data.write_bytes(whole[:-1])
    with pytest.raises(FolderError, match=r"model\.onnx_data has .* truncated"):
        OnnxModel(folder)
    data.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(FolderError, match=r"model\.onnx_data was altered"):
        OnnxModel(folder)


def test_a_graph_without_its_steering_is_refused_even_with_the_right_hash(bed, tmp_path):
    folder = damaged(bed, tmp_path)
    plain = bed.folder("unsteered")
    graph = folder / "onnx" / "model.onnx"
    shutil.copyfile(plain / "onnx" / "model.onnx", graph)
    manifest = json.loads((folder / "steerbake.json").read_text())
    manifest["files"]["onnx/model.onnx"] = {"bytes": graph.stat().st_size, "sha256": sha256_of(graph)}
    (folder / "steerbake.json").write_text(json.dumps(manifest))
    with pytest.raises(FolderError, match="its steering nodes are none"):
        OnnxModel(folder)


def test_what_cannot_be_exported_is_refused_and_nothing_is_written(bed, tmp_path):
    out = tmp_path / "out"
    asked = [
        (Options(dtypes=("fp8",)), "fp32"),
        (Options(dtypes=()), "dtypes"),
        (Options(layout="torchjs"), "transformersjs"),
        (Options(layout="genai", gate_state="io"), "gates would be lost"),
    ]
    for options, words in asked:
        with pytest.raises(CompileError, match=words):
            pipeline.export("onnx", bed.checkpoint, out, options)
    with pytest.raises(VerificationError, match="no steering section found"):
        pipeline.export("onnx", bed.home / "base", out)
    assert list(tmp_path.iterdir()) == []
    out.mkdir()
    with pytest.raises(CompileError, match="already exists"):
        pipeline.export("onnx", bed.checkpoint, out)
    assert list(out.iterdir()) == []


def test_a_graph_that_answers_otherwise_is_not_written(bed, tmp_path, monkeypatch):
    """The control of the last look: an edit that is lost between model and graph must be seen."""
    from exporter.targets.onnx.steering_nodes import LayerBody

    monkeypatch.setattr(LayerBody, "forward", lambda self, states, where, tensors: states.clone())
    with pytest.raises(CompileError, match="not the model it was traced from"):
        pipeline.export("onnx", bed.checkpoint, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_quantiser_that_touches_the_steering_is_refused(bed, tmp_path, monkeypatch):
    def careless(source: Path, target: Path) -> None:
        model = onnx.load(source)
        for tensor in model.graph.initializer:
            if tensor.name == "steering.layers.2.prototypes":
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.01, tensor.name))
        onnx.save(model, target)

    monkeypatch.setitem(quantize.QUANTISERS, "int8", careless)
    shutil.copytree(bed.folder("io") / "onnx", tmp_path / "onnx")
    with pytest.raises(CompileError, match="changed the steering"):
        quantize.write(tmp_path / "onnx", "int8")


def test_layouts_hold_what_their_runtimes_read(bed):
    genai = json.loads((bed.folder("kv") / "genai_config.json").read_text())
    decoder = genai["model"]["decoder"]
    assert (bed.folder("kv") / decoder["filename"]).is_file()
    assert decoder["num_hidden_layers"] == 5 and genai["search"]["past_present_share_buffer"] is False
    config = json.loads((bed.folder("js") / "config.json").read_text())
    assert config["num_hidden_layers"] == 5 and "transformers.js_config" in config
    assert (
        "[assistant]" in json.loads((bed.folder("js") / "tokenizer_config.json").read_text())["chat_template"]
    )
    names = {value.name: value for value in onnx.load(bed.folder("js") / "onnx" / "model.onnx").graph.input}
    first = names["past_key_values.4.key"].type.tensor_type.shape.dim[0]
    assert first.dim_param == "batch_size", "transformers.js looks for this very name"


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
    assert "no fp64" in alone(folder, *asked, "--dtype", "fp64").stderr
    assert "takes no images" in alone(folder, *asked, "--image", "x.png").stderr
    (folder / "tokenizer.json").write_text("{}")
    done = alone(folder, *asked)
    assert (
        done.returncode == 2
        and "tokenizer.json has 2 bytes" in done.stderr
        and "Traceback" not in done.stderr
    )


def test_verify_finds_a_folder_of_another_checkpoint(bed, tmp_path):
    found = pipeline.verify(bed.checkpoint, [bed.folder("io")], report=tmp_path / "found.json")
    assert found.failures == []
    fp32 = found.parity["io"]["variants"]["fp32"]
    assert fp32["logits"] <= 1e-4 and fp32["settings"] == 11
    assert json.loads((tmp_path / "found.json").read_text()) == found.data()
    assert not (bed.checkpoint / "verification.json").exists()
    other = program_of(bed.base, list(bed.program.gates), [tiny.turn(2, seed=1), tiny.turn(3, seed=2)])
    compile_checkpoint(bed.home / "base", other, tmp_path / "other")
    wrong = pipeline.verify(tmp_path / "other", [bed.folder("io")], report=tmp_path / "other.json")
    (parity,) = [check for check in wrong.failures if check.name == "parity"]
    assert "does not bear the steering" in parity.told and "logits differ" in parity.told


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
