"""An exported ONNX folder: whole or absent, refused when damaged, and what it holds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_bed
import pytest
import tiny
import tiny_run
import torch
from onnx import numpy_helper
from onnx_bed import FORGET, damaged, program_of

from exporter import pipeline
from exporter.errors import CompileError, VerificationError
from exporter.targets.checkpoint import compile_checkpoint
from exporter.targets.checkpoint_target import Checkpoint
from exporter.targets.onnx import quantize
from exporter.targets.onnx.target import OnnxOptions as Options
from exporter.targets.onnx_runner import FolderError, OnnxModel, left_padded, sha256_of
from exporter.targets.values import Finding
from steer_modules.program import SteeringProgram

bed = onnx_bed.bed


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
        ("SteeringLayer", "1"),
        ("SteeringLayer", "2"),
    ]
    text = model.SerializeToString()
    assert str(Path.cwd()).encode() not in text and b"site-packages" not in text


def test_inspect_reads_the_program_out_of_the_graph(bed):
    found = pipeline.inspect(bed.folder("io"))
    assert found.kind == "onnx folder" and found.program.sha256 == found.section["sha256"]
    with pytest.raises(VerificationError, match="unsteered"):
        pipeline.inspect(bed.folder("unsteered"))


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
    with pytest.raises(FolderError, match="was changed"):
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


def test_weights_beside_a_graph_are_part_of_the_folder(bed, tmp_path):
    folder = damaged(bed, tmp_path, "js")
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
    with pytest.raises(FolderError, match=r"model\.onnx_data was changed"):
        OnnxModel(folder)


def test_a_graph_without_its_steering_is_refused_even_with_the_right_hash(bed, tmp_path):
    folder = damaged(bed, tmp_path)
    plain = bed.folder("unsteered")
    graph = folder / "onnx" / "model.onnx"
    shutil.copyfile(plain / "onnx" / "model.onnx", graph)
    manifest = json.loads((folder / "steerbake.json").read_text())
    manifest["files"]["onnx/model.onnx"] = {"bytes": graph.stat().st_size, "sha256": sha256_of(graph)}
    (folder / "steerbake.json").write_text(json.dumps(manifest))
    with pytest.raises(FolderError, match="nodes are none"):
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


def test_a_graph_that_answers_otherwise_is_not_written(tmp_path, monkeypatch):
    """The control of the last look: an edit that is lost between model and graph must be seen."""
    from exporter.targets.onnx.steering_nodes import LayerBody

    tiny_run.write_base(tmp_path / "base", layers=1)
    tiny_run.steer(tmp_path / "base", tmp_path / "checkpoint", layers=1)
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(LayerBody, "forward", lambda self, states, where, tensors: states.clone())
    with pytest.raises(CompileError, match="differs from the model"):
        pipeline.export("onnx", tmp_path / "checkpoint", tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_a_quantiser_that_touches_the_steering_is_refused(bed, tmp_path, monkeypatch):
    def careless(source: Path, target: Path) -> None:
        model = onnx.load(source)
        for tensor in model.graph.initializer:
            if tensor.name == "steering.layers.1.prototypes":
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.01, tensor.name))
        onnx.save(model, target)

    monkeypatch.setitem(quantize.QUANTISERS, "int8", careless)
    shutil.copytree(bed.folder("io") / "onnx", tmp_path / "onnx")
    with pytest.raises(CompileError, match="quantisation"):
        quantize.write(tmp_path / "onnx", "int8")


def test_layouts_hold_what_their_runtimes_read(bed):
    genai = json.loads((bed.folder("kv") / "genai_config.json").read_text())
    decoder = genai["model"]["decoder"]
    assert (bed.folder("kv") / decoder["filename"]).is_file()
    assert decoder["num_hidden_layers"] == 4 and genai["search"]["past_present_share_buffer"] is False
    config = json.loads((bed.folder("js") / "config.json").read_text())
    assert config["num_hidden_layers"] == 4 and "transformers.js_config" in config
    assert (
        "[assistant]" in json.loads((bed.folder("js") / "tokenizer_config.json").read_text())["chat_template"]
    )
    names = {value.name: value for value in onnx.load(bed.folder("js") / "onnx" / "model.onnx").graph.input}
    first = names["past_key_values.3.key"].type.tensor_type.shape.dim[0]
    assert first.dim_param == "batch_size", "transformers.js looks for this very name"


def test_verify_finds_a_folder_of_another_checkpoint(bed, tmp_path, monkeypatch):
    found = pipeline.verify(bed.checkpoint, [bed.folder("io")], report=tmp_path / "found.json")
    assert found.failures == []
    fp32 = found.parity["io"]["variants"]["fp32"]
    assert fp32["logits"] <= 1e-4 and fp32["settings"] == 11
    assert json.loads((tmp_path / "found.json").read_text()) == found.data()
    assert not (bed.checkpoint / "verification.json").exists()
    other = program_of(bed.base, list(bed.program.gates), [tiny.turn(1, seed=1), tiny.turn(2, seed=2)])
    compile_checkpoint(bed.home / "base", other, tmp_path / "other")
    monkeypatch.setattr(Checkpoint, "check_loads", lambda *_: Finding(True, "that one loads", None))
    wrong = pipeline.verify(tmp_path / "other", [bed.folder("io")], report=tmp_path / "other.json")
    (parity,) = [check for check in wrong.failures if check.name == "parity"]
    assert "steering of this checkpoint" in parity.told and "logits differ" in parity.told
