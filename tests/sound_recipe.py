"""A recipe in which nothing is wrong, for tests that put something wrong into it; no model may be loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_run import write_recipe

from exporter import pipeline
from exporter.host import ModelHost


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe in which nothing is wrong; tests copy its folder."""
    return write_recipe(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def recipe(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(sound.parent, tmp_path / "made")
    monkeypatch.chdir(tmp_path)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(ModelHost, "load", never)
    return tmp_path / "made" / sound.name


def problems(recipe: Path, *changes: str) -> list[str]:
    return list(pipeline.check_recipe(recipe, changes).problems)


def one(recipe: Path, *changes: str) -> str:
    found = problems(recipe, *changes)
    assert len(found) == 1, found
    return found[0]


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
