"""A run's folder named where a checkpoint was meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_run import always_on, write_base
from typer.testing import CliRunner

from exporter import pipeline
from exporter.cli import app
from exporter.errors import InputErrors
from exporter.targets.checkpoint import compile_checkpoint
from exporter.workspace import Workspace


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a checkpoint in it."""
    home = tmp_path_factory.mktemp("run")
    write_base(home / "base")
    Workspace.claim(home / "out", "tiny")
    compile_checkpoint(home / "base", always_on(), home / "out" / "checkpoint")
    return home / "out"


def steerbake(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_inspect_and_chat_take_its_checkpoint_and_say_so(run: Path) -> None:
    status, out, remark = steerbake("inspect", run, "--json")
    assert status == 0 and json.loads(out)["folder"] == str(run / "checkpoint")
    assert str(run / "checkpoint") in remark
    status, out, remark = steerbake("chat", run, "--prompt", "where does ada live ?", "--max-new-tokens", 2)
    assert status == 0 and str(run / "checkpoint") in remark


def test_verify_takes_its_checkpoint(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []

    def verify(folder: Path, *_: object, **__: object) -> None:
        seen.append(folder)
        raise InputErrors("stop", ["here"])

    monkeypatch.setattr("exporter.pipeline.verify", verify)
    assert steerbake("verify", run)[0] == 2
    assert seen == [run / "checkpoint"]


def test_a_run_without_a_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    Workspace.claim(tmp_path / "out", "tiny")
    with pytest.raises(InputErrors, match="`steerbake run`"):
        pipeline.model_in(tmp_path / "out", print)
    program = always_on()
    (tmp_path / "out" / "steering" / "keyed").mkdir(parents=True)
    program.save(tmp_path / "out" / "steering" / "keyed")
    assert (
        pipeline.model_in(tmp_path / "out", print, programs=True) == tmp_path / "out" / "steering" / "keyed"
    )
    with pytest.raises(InputErrors):
        pipeline.model_in(tmp_path / "out", print)


def test_any_other_folder_is_taken_as_it_is(run: Path, tmp_path: Path) -> None:
    for folder in (run / "checkpoint", tmp_path, tmp_path / "absent"):
        assert pipeline.model_in(folder, pytest.fail) == folder


def test_a_checkpoint_is_looked_at_as_one_whatever_else_lies_in_it(tmp_path: Path) -> None:
    """A steering program beside changed weights says nothing of those."""
    write_base(tmp_path / "base")
    write_base(tmp_path / "other", seed=7)
    compile_checkpoint(tmp_path / "base", always_on(), tmp_path / "checkpoint")
    compile_checkpoint(tmp_path / "other", always_on(), tmp_path / "changed")
    (tmp_path / "steering").mkdir()
    always_on().save(tmp_path / "steering")
    for file in (tmp_path / "changed").glob("*.safetensors"):
        if not file.name.startswith("steering"):
            (tmp_path / "checkpoint" / file.name).unlink()
            (tmp_path / "checkpoint" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "checkpoint" / "steering.json").write_bytes(
        (tmp_path / "steering" / "steering.json").read_bytes()
    )
    status, _, message = steerbake("inspect", tmp_path / "checkpoint")
    assert status == 2 and f"{tmp_path / 'checkpoint'}: the base weights" in message
