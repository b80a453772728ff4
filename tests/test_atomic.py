"""Folders appear whole, and whoever may read a new file may read every file of them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import tiny_run

from exporter.atomic import link_or_copy, whole_folder, write_json, write_text
from steer_modules.program import SteeringProgram


def modes(folder: Path) -> dict[str, str]:
    every = (folder, *folder.rglob("*"))
    return {
        str(p.relative_to(folder.parent)): ("d" if p.is_dir() else "") + oct(stat.S_IMODE(p.stat().st_mode))
        for p in every
    }


@pytest.fixture(params=[0o022, 0o027, 0o077])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_checkpoint_of_a_base_that_only_its_owner_reads_follows_the_umask(tmp_path, umask):
    tiny_run.write_base(tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").chmod(0o600)  # as the tensor library leaves it
    tiny_run.steer(tmp_path / "base", tmp_path / "out")
    files = {f"{0o666 & ~umask:#o}"}
    found = modes(tmp_path / "out")
    assert {mode for mode in found.values() if not mode.startswith("d")} == files
    assert {mode for mode in found.values() if mode.startswith("d")} == {f"d{0o777 & ~umask:#o}"}
    assert (tmp_path / "base" / "model.safetensors").samefile(
        tmp_path / "out" / "base-00001-of-00001.safetensors"
    )


def test_steering_folders_follow_it_too(tmp_path, umask):
    program = tiny_run.always_on()
    (tmp_path / "steering").mkdir()
    program.save(tmp_path / "steering")
    assert set(modes(tmp_path / "steering").values()) == {f"d{0o777 & ~umask:#o}", f"{0o666 & ~umask:#o}"}
    assert SteeringProgram.load(tmp_path / "steering").tensors().keys() == program.tensors().keys()


def test_a_link_to_a_file_of_somebody_else_becomes_a_copy(tmp_path, monkeypatch):
    (tmp_path / "theirs").write_text("weights")
    (tmp_path / "theirs").chmod(0o600)

    def refused(self, mode):
        raise PermissionError(1, "Operation not permitted", str(self))

    monkeypatch.setattr(Path, "chmod", refused)
    with whole_folder(tmp_path / "out") as folder:
        link_or_copy(tmp_path / "theirs", folder / "shard")
    assert modes(tmp_path / "out")["out/shard"] == oct(0o666 & ~_umask())
    assert (tmp_path / "out" / "shard").read_text() == "weights"
    assert stat.S_IMODE((tmp_path / "theirs").stat().st_mode) == 0o600
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["shard"]


def _umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


@pytest.mark.parametrize("before", [None, "what was there"])
def test_a_file_whose_writing_fails_is_left_as_it_was(tmp_path, monkeypatch, before):
    path = tmp_path / "made" / "file.json"
    if before is not None:
        write_text(path, before)
    for value in (float("nan"), {"a": [float("inf")]}, object()):
        with pytest.raises((ValueError, TypeError)):
            write_json(path, value)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "half")
    assert (path.read_text() if path.exists() else None) == before


def test_json_is_utf8_and_ends_in_a_line_end(tmp_path):
    write_json(tmp_path / "a.json", {"name": "Zoë", "wide": float("inf")}, indent=2, finite=False)
    assert (tmp_path / "a.json").read_bytes() == '{\n  "name": "Zoë",\n  "wide": Infinity\n}\n'.encode()
