"""Every weight and every piece of code in a folder belongs to something that was verified."""

from __future__ import annotations

import pytest
import tiny_run

from exporter.pipeline.allowlist import check_allowlist
from exporter.publish.files import targets_in


@pytest.fixture
def folder(tmp_path):
    tiny_run.write_base(tmp_path / "base")
    tiny_run.steer(tmp_path / "base", tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def found(folder):
    return check_allowlist(folder, targets_in(folder))


def test_a_compiled_checkpoint_holds_nothing_else(folder):
    assert found(folder).holds, found(folder).message
    (folder / "notes.txt").write_text("x")
    assert found(folder).holds


@pytest.mark.parametrize(
    "path",
    [
        "model.safetensors",
        "base/model.safetensors",
        "pytorch_model.bin",
        "onnx/model.onnx",
        "more.py",
        "a/b.GGUF",
    ],
)
def test_a_weight_or_code_of_no_target_is_named(folder, path):
    (folder / path).parent.mkdir(exist_ok=True)
    (folder / path).write_bytes(b"x")
    assert not found(folder).holds and f"{path} belongs to no target" in found(folder).value


@pytest.mark.parametrize("name", ["ops.py", "modeling_steered_llama.py"])
def test_code_that_is_not_ours_is_named(folder, name):
    (folder / name).write_text((folder / name).read_text() + "# changed\n")
    assert not found(folder).holds and name in found(folder).message
    (folder / name).unlink()
    assert f"{name} is missing" in found(folder).message


def test_a_list_that_cannot_be_read_is_no_list(folder):
    (folder / "onnx").mkdir()
    (folder / "onnx" / "steerbake.json").write_text("{}")
    assert not found(folder).holds and "list of files of onnx" in found(folder).message
