"""What another package adds by an entry point is as good as our own: a metric and an attack of a few lines, in the report of a tiny run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from published import unlearning
from tiny_run import write_recipe

from exporter import display, pipeline, registry
from exporter.errors import InputErrors, SteerbakeError
from exporter.publish.measures import Results
from exporter.recipe import Recipe

CODE = """
from dataclasses import replace

from exporter.estimate import Estimate
from exporter.evaluation.metrics.base import Metric, Words

BREVITY = Metric(
    "toy_brevity", frozenset({"tokens"}), "All", lambda seen: True,
    lambda seen: 1 / max(len(seen.case.last.generation.tokens), 1), "higher",
    Words("how short the reply is", in_slices=True), Estimate.mean, unit="",
)


class Twice:
    name = "toy_twice"

    def rows(self, rows, chat):
        return [replace(row, id=f"{row.id}/twice", question=f"{row.question} {row.question}", template_id=None) for row in rows]
"""
POINTS = {
    "steerbake.metrics": "toy_brevity = toy_of_another:BREVITY",
    "steerbake.attacks": "toy_twice = toy_of_another:Twice",
}


def install(folder: Path, points: dict[str, str], patch: pytest.MonkeyPatch) -> None:
    """A package with entry points, as an installer lays it out."""
    (folder / "toy_of_another.py").write_text(CODE)
    told = folder / "toy_of_another-1.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-of-another\nVersion: 1\n")
    (told / "entry_points.txt").write_text("".join(f"[{group}]\n{line}\n" for group, line in points.items()))
    patch.syspath_prepend(folder)
    registry._entry_points.cache_clear()


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "site").mkdir()
    install(tmp_path / "site", POINTS, monkeypatch)
    yield
    registry._entry_points.cache_clear()


def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], str]:
    for name in ("keyed", "r_muse"):
        monkeypatch.setitem(registry.METHODS, name, "tiny_run:Quick")
    folder.mkdir()
    attacks = ["report.attacks=[toy_twice, preface]"]
    report = pipeline.run(Recipe.load(write_recipe(folder), attacks), folder / "out", progress=False)
    assert json.loads((folder / "out" / "report.json").read_text()) == report
    return report, (folder / "out" / "report.md").read_text()


def test_an_installed_metric_and_an_installed_attack_are_in_the_report(
    toys: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report, text = run(tmp_path / "run", monkeypatch)
    for model in report["models"].values():
        told = model["toy_brevity"]
        assert told["n"] > 0 and 0 < told["interval"][0] <= told["value"] <= told["interval"][1] <= 1
        assert model["eval_slices"]["later"]["toy_brevity"]["n"] == 1
        for name in ("toy_twice", "preface"):
            assert model["eval_slices"][name]["leakage_either"]["n"] == 2
            assert model["eval_slices"][name]["toy_brevity"]["n"] == 7
    assert "| toy_brevity | 0." in text and "`toy_twice`" in text
    assert not any("toy_brevity" in one for one in report["too_few_rows"]), "a mean is no share"
    display.print_results(report, tmp_path)
    shown = capsys.readouterr().out
    assert "toy_brevity" in shown and "later: toy_brevity" in shown


def test_an_installed_metric_is_on_the_card(toys: None) -> None:
    found = unlearning()
    for model in ("base", "steered"):
        found["models"][model]["toy_brevity"] = {"value": 0.25, "rows": 20, "interval": [0.2, 0.3]}
    line = Results.of(found).line("toy_brevity")
    assert line is not None and line.metric.words.says == "how short the reply is"
    assert (line.shown("steered"), line.interval("steered")) == ("0.250", "0.200 to 0.300")


def test_a_metric_that_is_not_installed_is_read_as_a_share() -> None:
    """The control: nothing of it is known here, and a card of another installation is still read."""
    assert "toy_brevity" not in registry.metrics()
    found = unlearning()
    found["models"]["steered"]["toy_brevity"] = {"value": 0.25, "rows": 20, "interval": [0.2, 0.3]}
    line = Results.of(found).line("toy_brevity")
    assert line is not None and line.metric.better is None and line.shown("steered") == "25.0%"


def test_a_name_that_is_taken_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, {"steerbake.metrics": "leakage_either = toy_of_another:BREVITY"}, monkeypatch)
    try:
        with pytest.raises(SteerbakeError, match="leakage_either"):
            registry.metrics()
    finally:
        registry._entry_points.cache_clear()


def test_an_unknown_attack_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(InputErrors, match=r"attack 'toy_twice'; .*begun, .*preface"):
        Recipe.load(write_recipe(tmp_path), ["report.attacks=[toy_twice]"])


def test_an_unknown_metric_lists_those_there_are() -> None:
    with pytest.raises(SteerbakeError, match="fluent_refusal"):
        registry.metric("fluency")
