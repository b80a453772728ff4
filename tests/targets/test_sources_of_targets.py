"""A folder that a target is not made from is refused with the next command; a run's folder is taken for what is in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny
from random_edits import random_edit
from test_cli import refused

from exporter import look_inside
from exporter.errors import InputErrors
from exporter.targets.merged.export import export_merged
from exporter.workspace import Workspace


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A base, an edit and both merged."""
    home = tmp_path_factory.mktemp("sources")
    model = tiny.build("llama")
    model.save_pretrained(home / "base")
    edit = random_edit(home / "base", model)
    (home / "edit").mkdir()
    edit.save(home / "edit")
    export_merged(home / "base", edit, home / "merged")
    return home


@pytest.mark.parametrize("target", ["onnx", "gguf"])
def test_an_edit_is_compiled_before_it_is_exported(home, tmp_path, target):
    told = refused("export", target, home / "edit", tmp_path / "out")
    assert f"is a weight edit, and {target} is made from" in told
    assert f"run `steerbake compile BASE {home / 'edit'} CHECKPOINT` first, and export CHECKPOINT" in told


def test_a_merged_checkpoint_is_no_steered_one(home, tmp_path):
    told = refused("export", "adapter", home / "merged", tmp_path / "out")
    assert "is made of a weight edit as a fit writes it; give the folder RUN/steering/METHOD" in told


def test_a_chat_with_an_edit_says_what_to_do(home):
    told = refused("chat", home / "edit", "--prompt", "hello")
    assert "`steerbake compile BASE FOLDER CHECKPOINT` merges it" in told


def test_the_edit_of_a_run_is_taken_where_there_is_one(home, tmp_path):
    space = Workspace.claim(tmp_path / "run", "mine", None)
    said: list[str] = []
    with pytest.raises(InputErrors, match="has not found a weight edit"):
        look_inside.fit_in(space.out, said.append, ("edit",))
    shutil.copytree(home / "edit", space.out / "steering" / "npo")
    assert look_inside.fit_in(space.out, said.append, ("edit",)) == space.out / "steering" / "npo"
    assert said == [f"using {space.out / 'steering' / 'npo'}"]
    shutil.copytree(home / "edit", space.out / "steering" / "rmu")
    with pytest.raises(InputErrors, match="give one of them"):
        look_inside.fit_in(space.out, said.append, ("edit",))
    assert look_inside.fit_in(home / "edit", said.append, ("edit",)) == home / "edit"
