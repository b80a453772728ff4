"""Targets that were made of another checkpoint, were changed, or quantise what steers are found before anything is run."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from manifests import gguf_manifest, stock_manifest
from publish.folders import SECTION, written

from exporter import registry
from exporter.digests import digest_of_file
from exporter.errors import VerificationError
from exporter.host import ModelHost
from exporter.pipeline.loaded_target import discover_targets, opened
from exporter.publish.files import CHECKPOINT
from exporter.targets.values import Completions
from exporter.types import Prompt

SOURCE = {"sha256": SECTION["sha256"], "fingerprint": SECTION["base"]["fingerprint"]}
HOST: Any = SimpleNamespace(end_ids={2}, tokenizer=None, num_layers=4)


def gguf(folder, source=SOURCE, kind="F16"):
    folder.mkdir()
    (folder / "m-Q8_0.gguf").write_text("weights")
    files = {"m-Q8_0.gguf": digest_of_file(folder / "m-Q8_0.gguf")}
    (folder / "gguf.json").write_text(json.dumps(gguf_manifest([3], files, source, kind)))
    return folder


def stock(folder, source=SOURCE, measured=1.0):
    folder.mkdir()
    (folder / "model.safetensors").write_text("weights")
    files = {"model.safetensors": digest_of_file(folder / "model.safetensors")}
    (folder / "stock.json").write_text(json.dumps(stock_manifest([3], files, source, measured)))
    return folder


@pytest.fixture
def deeper(monkeypatch):
    """What loads as a stock checkpoint has one layer more."""
    monkeypatch.setattr(ModelHost, "load", lambda *_, **__: SimpleNamespace(num_layers=5))


def test_gguf_files_are_those_of_this_checkpoint(tmp_path):
    assert opened("gguf", gguf(tmp_path / "a"), SECTION, HOST).wrong == []
    other = opened("gguf", gguf(tmp_path / "b", {**SOURCE, "sha256": "0" * 64}), SECTION, HOST)
    assert other.wrong == ["it was made from another steered checkpoint"]
    quantised = opened("gguf", gguf(tmp_path / "c", kind="Q8_0"), SECTION, HOST)
    assert "quantises the layers that steer to Q8_0" in quantised.wrong[0]
    beside = gguf(tmp_path / "d")
    stock(tmp_path / "stock")
    assert "another stock checkpoint" in opened("gguf", beside, SECTION, HOST).wrong[0]
    (beside / "m-Q8_0.gguf").write_text("other weights")
    with pytest.raises(VerificationError, match=r"m-Q8_0\.gguf"):
        opened("gguf", beside, SECTION, HOST)


def test_without_llama_cpp_a_gguf_file_is_not_verified(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "llama_cpp", None)
    target = opened("gguf", gguf(tmp_path / "a"), SECTION, HOST)
    with pytest.raises(Exception, match="llama-cpp-python"):
        registry.target("gguf").check_loads(target, Completions([Prompt("x", (1,))], [(1,)]))


def test_a_stock_checkpoint_is_that_of_this_checkpoint(tmp_path, deeper):
    assert opened("stock", stock(tmp_path / "a"), SECTION, HOST).wrong == []
    other = opened("stock", stock(tmp_path / "b", {**SOURCE, "fingerprint": "sha256:1"}), SECTION, HOST)
    assert other.wrong == ["it was made from another steered checkpoint"]
    assert "recall" in opened("stock", stock(tmp_path / "c", measured=0.5), SECTION, HOST).wrong[0]
    shallow = SimpleNamespace(end_ids={2}, tokenizer=None, num_layers=5)
    assert "it has 5 layers, not 6" in opened("stock", tmp_path / "a", SECTION, shallow).wrong
    (tmp_path / "a" / "model.safetensors").write_text("other")
    with pytest.raises(VerificationError, match=r"model\.safetensors"):
        opened("stock", tmp_path / "a", SECTION, HOST)


def test_targets_have_names_of_their_own(tmp_path):
    folder = written(tmp_path / "release", "onnx")
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "steerbake.json").write_text("{}")
    found = discover_targets(folder, [tmp_path / "onnx"])
    assert list(found) == [CHECKPOINT, "onnx", "onnx'"] and found["onnx'"] == tmp_path / "onnx"
    turned = discover_targets(tmp_path / "onnx", [folder])
    assert turned == {CHECKPOINT: folder, "onnx": tmp_path / "onnx"}
    with pytest.raises(VerificationError, match="--against"):
        discover_targets(tmp_path / "onnx", [])
    with pytest.raises(VerificationError, match=r"config\.json"):
        discover_targets(folder, [tmp_path])
