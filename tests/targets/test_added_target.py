"""A package of others adds a target by an entry point alone, and every command knows it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from exporter import registry
from exporter.errors import SteerbakeError

HOME = Path(__file__).resolve().parents[2]
TOY = '''
"""A target of another package: a folder that says which checkpoint answers for it."""

import json
from typing import Annotated, Literal

from exporter.targets.base import Flag, RecipeKey, Target, TargetOptions
from exporter.targets.values import FileKind, Finding, LoadedTarget, Summary, UsageSnippet


class ToyOptions(TargetOptions):
    letters: Annotated[
        tuple[str, ...],
        Flag("--letter", "Letters of the toy. May be repeated."),
        RecipeKey(list[Literal["a", "b"]], "Letters of the toy.", ("a",)),
    ] = ("a",)


class Toy(Target[ToyOptions]):
    name, title, marker, Options = "toy", "Toy Runtime", "toy.json", ToyOptions
    artifact = "What `steerbake export toy` wrote."
    help = "Write a toy."
    files = (FileKind("toy.json", "what the toy is"), FileKind("*.letters", "the letters of the toy"))

    def export(self, source, out, options, context):
        out.mkdir(parents=True)
        (out / "toy.letters").write_text("".join(options.letters))
        (out / "toy.json").write_text(json.dumps({"files": {"toy.letters": 1}, "letters": options.letters}))
        return out

    def open(self, folder, reference):
        return LoadedTarget(folder, self.name, {"": reference.host}, {"toys": 1})

    def check_loads(self, loaded, completions, trusted=None):
        return Finding(True, "it is a toy", None)

    def describe(self, release, place):
        return UsageSnippet(self.name, self.title, "sh", place.download(self.name), "It is a toy.")

    def summary(self, folder, *, checked):
        told = json.loads((folder / "toy.json").read_text())
        return Summary(told, "toy", ("letter",), [(one,) for one in told["letters"]], "a toy")
'''

THIRD_PARTY = """
import json, sys
from pathlib import Path

from typer.testing import CliRunner

import tiny_run
from exporter import pipeline, registry
from exporter.cli import app
from exporter.errors import InputErrors
from exporter.reference import reference
from exporter.recipe import Recipe

home, told = Path(sys.argv[1]), {}
registry.METHODS["keyed"] = "tiny_run:Quick"
recipe = tiny_run.write_publishable(home)
recipe.write_text(recipe.read_text() + "  targets: [toy]\\n  toy_letters: [b, a]\\n")
loaded = Recipe.load(recipe)
told["recipe"] = [loaded.publish.targets, list(loaded.publish.options(registry.target("toy")).letters)]
try:
    Recipe.load(recipe, ["publish.toy_letters=[c]"])
except InputErrors as error:
    told["refused"] = list(error.problems)
told["reference"] = "`toy_letters`" in reference()
pipeline.publish(loaded, home / "run", pipeline.Request(dry_run=True), progress=False)
release = home / "run" / "release"
told["staged"] = sorted(path.name for path in (release / "toy").iterdir())
verification = json.loads((release / "verification.json").read_text())
told["checks"] = [[one["name"], one["holds"]] for one in verification["checks"] if one["target"] == "toy"]
told["parity"] = verification["parity"]["toy"]["kind"]
told["card"], told["page"] = ("Toy Runtime" in (release / name).read_text() for name in ("README.md", "report.html"))


def steerbake(*arguments):
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    assert done.exit_code == 0, done.output
    return done.output


told["help"] = "Write a toy." in steerbake("export", "--help")
steerbake("export", "toy", home / "run" / "checkpoint", home / "toy", "--letter", "b")
told["exported"] = (home / "toy" / "toy.letters").read_text()
told["inspected"] = json.loads(steerbake("inspect", "--json", home / "toy"))["letters"]
print(json.dumps(told))
"""


@pytest.mark.slow
def test_a_package_of_others_adds_a_target(tmp_path: Path) -> None:
    """By an entry point alone: recipe, command, preflight, staging, verification, card and inspection know it."""
    site = tmp_path / "site"
    info = site / "steerbake_toy-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "steerbake_toy.py").write_text(TOY)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: steerbake-toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[steerbake.targets]\ntoy = steerbake_toy:Toy\n")
    places = os.pathsep.join(map(str, (HOME, HOME / "tests", site)))
    (tmp_path / "home").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", THIRD_PARTY, str(tmp_path / "home")],
        env={**os.environ, "PYTHONPATH": places},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    checks = told.pop("checks")
    assert {"strict loading", "parity"} <= {name for name, _ in checks} and all(holds for _, holds in checks)
    assert told == {
        "recipe": [["toy"], ["b", "a"]],
        "refused": ["publish.toy_letters.0: input should be 'a' or 'b', received 'c'"],
        "reference": True,
        "staged": ["toy.json", "toy.letters"],
        "parity": "toy",
        "card": True,
        "page": True,
        "help": True,
        "exported": "b",
        "inspected": ["b"],
    }


def test_a_name_that_is_taken_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    refused_by_name(monkeypatch, "onnx", "other:Onnx")


@pytest.mark.parametrize("value", ["no_such_module:Toy", "json:NoSuch", "json"])
def test_a_package_that_cannot_be_loaded_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refused_by_name(monkeypatch, "toy", value)


def test_a_target_under_the_name_of_another_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be exported by ours, whatever it is."""
    refused_by_name(monkeypatch, "toy", registry.TARGETS["stock"])


def refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    point = SimpleNamespace(name=name, value=value)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [point])
    registry.targets.cache_clear()
    registry._entry_points.cache_clear()
    try:
        with pytest.raises(SteerbakeError, match=repr(name)):
            registry.targets()
    finally:
        monkeypatch.undo()
        registry.targets.cache_clear()
        registry._entry_points.cache_clear()
