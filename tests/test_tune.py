"""A study: calibration rows alone decide, it goes on where it was stopped, and its winner is a recipe."""

from __future__ import annotations

import builtins
import importlib
import json
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from tiny_run import Quick, write_recipe
from typer.testing import CliRunner

from exporter import pipeline, registry
from exporter.cli import app
from exporter.errors import FitError, InputErrors
from exporter.fitting.trials import Trial
from exporter.pipeline import tune_trial
from exporter.pipeline.tune import without_test_rows
from exporter.pipeline.tune_record import TrialLine, front_of, winner_of
from exporter.pipeline.tune_study import Study
from exporter.pipeline.tune_trial import Judge
from exporter.provenance import versions
from exporter.recipe import Recipe

tune_module = importlib.import_module("exporter.pipeline.tune")  # the package's attribute is the function
TRIALS = 4


@pytest.fixture(autouse=True)
def method(monkeypatch):
    monkeypatch.setitem(registry.METHODS, "keyed", "tiny_run:Tunable")
    monkeypatch.setitem(registry.METHODS, "r_muse", "tiny_run:Quick")
    monkeypatch.setattr(Quick, "fitted", [])


@pytest.fixture
def recipe(tmp_path):
    return write_recipe(tmp_path)


def study(recipe: Path, **options: object) -> pipeline.Tuned:
    given = {
        "folder": recipe.parent / "study",
        "trials": TRIALS,
        "report": False,
        "progress": False,
        **options,
    }
    return pipeline.tune(recipe, **given)


def params(done: pipeline.Tuned) -> list[dict[str, object]]:
    return [one.params for one in done.record.trials if not one.reason]


def test_a_study_tries_what_is_declared_and_what_bounds_say(recipe):
    record = study(recipe).record
    assert record.searched == {"layer": "1, 2, 3", "strength": "0.05 to 1"}
    first, *others = (one for one in record.trials if not one.reason)
    assert first.params == {} and all(set(one.params) == {"layer", "strength"} for one in others)
    assert [one.reason for one in record.trials if one.reason] in (
        [],
        *[["block 1 is where the gate is"] * n for n in range(1, 9)],
    )
    assert all(one.leakage is None for one in record.trials if one.reason)
    assert len(params(study(recipe))) == TRIALS


def test_a_key_that_the_recipe_sets_stays(recipe):
    done = study(recipe, trials=2, changes=["methods.params={keyed: {layer: 3}}"])
    assert {one["layer"] for one in params(done)} == {3}
    assert list(done.record.searched) == ["strength"]


def test_the_winner_is_a_recipe_that_run_takes_and_says_where_it_comes_from(recipe):
    out = recipe.parent / "elsewhere" / "won.yaml"
    done = study(recipe, trials=2, out=out)
    text = out.read_text()
    assert text.startswith("# Written by `steerbake tune recipe.yaml`: trial ") and "leak " in text
    loaded = Recipe.load(out)
    assert (loaded.name, loaded.methods.names) == ("tiny-tuned", ("keyed",))
    winner = next(one for one in done.record.trials if one.number == done.record.winner)
    assert loaded.methods.params["keyed"] == winner.params
    assert yaml.safe_load(text)["base"]["path"] == "../base"
    assert str(recipe.parent) not in text
    pipeline.run(loaded, recipe.parent / "run", progress=False)
    assert (recipe.parent / "study" / "pareto.png").is_file()


def test_a_file_that_no_study_wrote_is_not_overwritten(recipe):
    other = recipe.parent / "mine.yaml"
    other.write_text("name: mine\n")
    with pytest.raises(InputErrors, match="--out"):
        study(recipe, out=other)
    assert other.read_text() == "name: mine\n" and not Quick.fitted


def test_test_rows_are_not_read_before_the_winner_is_written(recipe, monkeypatch):
    """Every way to the file is watched; the control is the run at the end, which must be seen."""
    seen: list[bool] = []
    written = recipe.parent / "study" / "tiny-tuned.yaml"
    whole, opened = Path.open, builtins.open

    def noted(path: object) -> None:
        if Path(str(path)).name == "test.jsonl":
            seen.append(written.is_file())

    monkeypatch.setattr(Path, "open", lambda self, *a, **k: (noted(self), whole(self, *a, **k))[1])
    monkeypatch.setattr(builtins, "open", lambda path, *a, **k: (noted(path), opened(path, *a, **k))[1])
    study(recipe, trials=2)
    assert seen == []
    assert study(recipe, trials=2, report=True).report is not None
    assert seen and all(seen)


def test_a_study_works_without_a_file_of_test_rows_until_the_end(recipe):
    (recipe.parent / "test.jsonl").write_text("this is no row")
    assert len(params(study(recipe, trials=1))) == 1
    with pytest.raises(InputErrors, match="test"):
        study(recipe, trials=1, report=True)
    assert without_test_rows(Recipe.load(recipe)).data.test == []


class Killed(BaseException):
    """As a signal would end the process."""


def test_a_study_that_was_killed_goes_on_as_if_it_had_not_been(recipe, tmp_path_factory, monkeypatch):
    whole = params(study(recipe, folder=recipe.parent / "other"))
    count, judged = 0, tune_trial.Judge.__call__

    def dying(self, given):
        nonlocal count
        count += 1
        if count == 3:
            raise Killed
        return judged(self, given)

    monkeypatch.setattr(tune_trial.Judge, "__call__", dying)
    with pytest.raises(Killed):
        study(recipe)
    monkeypatch.setattr(tune_trial.Judge, "__call__", judged)
    Quick.fitted.clear()
    assert params(study(recipe)) == whole
    fits = len(Quick.fitted)
    Quick.fitted.clear()
    assert params(study(recipe)) == whole and len(Quick.fitted) == 1  # the winner's alone
    assert fits < TRIALS + 1
    assert len(params(study(recipe, trials=TRIALS + 1))) == TRIALS + 1


@pytest.mark.parametrize("what", ["the calibration rows", "the base", "the recipe"])
def test_a_study_of_something_else_begins_anew_and_says_so(recipe, what, caplog):
    first = study(recipe, trials=1).record
    changes = []
    if what == "the calibration rows":
        rows = recipe.parent / "calibrate.jsonl"
        rows.write_text(rows.read_text().replace("home of", "the home of"))
    elif what == "the base":
        generation = recipe.parent / "base" / "generation_config.json"
        generation.write_text(
            json.dumps({**json.loads(generation.read_text()), "temperature": 0.5, "do_sample": True})
        )
    else:
        changes = ["seed=7"]
    caplog.clear()
    second = study(recipe, changes=changes, trials=1).record
    assert second.study != first.study
    (sentence,) = [one.getMessage() for one in caplog.records if "a new study begins" in one.getMessage()]
    assert what in sentence
    with sqlite3.connect(recipe.parent / "study" / "study.db") as store:
        assert store.execute("select count(*) from studies").fetchone() == (2,)


def test_when_nothing_can_be_fitted_the_reasons_are_told(recipe):
    with pytest.raises(FitError, match="block 1"):
        study(recipe, changes=["methods.params={keyed: {layer: 1}}"])
    assert not (recipe.parent / "study" / "tiny-tuned.yaml").exists()


def line(number: int, leakage: float, kept: float, fluent: float, margin: float | None = None) -> TrialLine:
    cost = 4 * leakage + 2 * (1 - kept) + 1 - fluent
    times = {"reason": "", "seconds": 0.0, "cpu_seconds": 0.0}
    return TrialLine(
        number=number, params={}, leakage=leakage, kept=kept, fluent=fluent, cost=cost, margin=margin, **times
    )


def test_the_front_is_what_no_trial_beats_and_the_winner_is_on_it():
    lines = [
        line(0, 0.5, 1.0, 0.5),
        line(1, 0.0, 0.9, 1.0),
        line(2, 0.5, 0.9, 0.5),
        line(3, 0.0, 0.9, 1.0, 0.2),
    ]
    assert front_of(lines) == [0, 1, 3]
    assert winner_of(lines).number == 3
    assert winner_of(lines[:3]).number == 1


def test_no_cost_or_margin_that_is_no_number_wins():
    nan = float("nan")
    good = line(2, 0.0, 1.0, 1.0, 0.1)
    lines = [line(0, nan, 1.0, 1.0, 5.0), line(1, 0.0, 1.0, 1.0, nan), good]
    assert winner_of(lines) is good and winner_of(lines[::-1]) is good
    assert front_of([lines[0], good]) == [2]
    with pytest.raises(FitError):
        winner_of(lines[:1])


def test_the_command_prints_the_front_and_writes_the_record(recipe):
    folder = recipe.parent / "study"
    asked = ["tune", str(recipe), "--trials", "2", "--folder", str(folder), "--no-report", "--quiet"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    assert "winner" in result.output
    record = json.loads((folder / "tune.json").read_text())
    assert record["format"] == "steerbake-tune/1" and record["front"]
    as_json = CliRunner().invoke(app, [*asked, "--json"])
    assert json.loads(as_json.stdout)["study"]["winner"] == record["winner"]


def test_without_optuna_the_message_names_what_to_install(recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    result = CliRunner().invoke(app, ["tune", str(recipe), "--folder", str(recipe.parent / "study")])
    assert result.exit_code == 1 and "pip install 'steerbake[tune]'" in result.output


def test_one_of_several_processes_is_refused(recipe, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputErrors, match="one process"):
        study(recipe)


def test_a_trial_that_was_cut_off_while_it_was_noted_is_not_counted(tmp_path):
    made_of = {"the recipe": "1"}
    with Study(tmp_path / "study.db", made_of, 0) as first:
        asked = first.ask()
        asked.trial.set_user_attr("told", {"reason": ""})
    with Study(tmp_path / "study.db", made_of, 0) as again:
        assert again.trials == [] and again.news is None
        refused = again.ask()
        again.tell(refused, None, reason="no")
    with Study(tmp_path / "study.db", made_of, 0) as last:
        assert [one.values for one in last.trials] == [None]


def test_a_second_process_does_not_touch_the_trials_of_the_first(tmp_path):
    file, made_of = tmp_path / "study.db", {"the recipe": "1"}
    with Study(file, made_of, 0) as first:
        asked = first.ask()
        with pytest.raises(InputErrors, match=r"another process.*--folder"):
            Study(file, made_of, 0)
        first.tell(asked, (0.0, 1.0, 1.0), reason="", margin=None)
        assert len(first.trials) == 1
    with Study(file, made_of, 0) as second:
        assert len(second.trials) == 1


def test_the_lock_of_a_process_that_was_killed_is_taken_over(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from exporter.pipeline.tune_study import Study;"
        "Study(Path(sys.argv[1]), {'the recipe': '1'}, 0).ask(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    file = tmp_path / "study.db"
    assert subprocess.run([sys.executable, "-c", code, str(file)], check=False).returncode == -signal.SIGKILL
    with Study(file, {"the recipe": "1"}, 0) as after:
        assert after.trials == [] and after.ask().number == 1


@pytest.mark.parametrize("content", [b"not sqlite", b"SQLite format 3\x00" + bytes(300)])
def test_a_file_that_is_no_study_is_refused(tmp_path, content):
    (tmp_path / "study.db").write_bytes(content)
    with pytest.raises(InputErrors, match=r"(?s)study\.db.*--folder"):
        Study(tmp_path / "study.db", {"the recipe": "1"}, 0)
    assert (tmp_path / "study.db").read_bytes() == content


@pytest.mark.parametrize("changed", ["fluent", "margin"])
def test_what_is_no_number_is_a_refused_trial_and_never_wins(recipe, monkeypatch, changed):
    judged, count = tune_trial.Judge.__call__, 0

    def broken(self, given):
        nonlocal count
        count += 1
        found = judged(self, given)
        if count > 1 or found.trial is None:
            return found
        if changed == "margin":
            return replace(found, margin=float("nan"))
        return replace(found, trial=replace(found.trial, fluent=float("nan")))

    monkeypatch.setattr(tune_trial.Judge, "__call__", broken)
    record = study(recipe, trials=1).record
    first = record.trials[0]
    assert first.leakage is None and "no number" in first.reason
    assert record.winner != 0


def test_a_winner_that_gives_no_numbers_when_it_is_fitted_again_is_told(recipe, monkeypatch):
    """Its trial had numbers: what was written would name a model that nobody has."""
    generated = Judge.generated

    def lost(self, found):
        return replace(generated(self, found), leakage=float("nan"))

    monkeypatch.setattr(Judge, "generated", lost)
    with pytest.raises(FitError, match=r"trial \d+ .* fitted again, and its leakage, cost are no numbers"):
        study(recipe)
    assert not (recipe.parent / "study" / "tune.json").exists()


def test_trials_without_a_number_come_to_an_end(recipe, monkeypatch):
    nan = tune_trial.Judged(Trial(float("nan"), float("nan"), float("nan")), None, "", 0.0, 0.0)
    monkeypatch.setattr(tune_trial.Judge, "__call__", lambda self, given: nan)
    with pytest.raises(FitError, match="no number"):
        study(recipe, trials=1)


def test_a_recipe_that_sets_every_parameter_has_one_trial(recipe, caplog):
    given = {"layer": 3, "strength": 1.0, "rows": 4}
    done = study(recipe, changes=[f"methods.params={{keyed: {json.dumps(given)}}}"])
    assert [one.params for one in done.record.trials] == [given] and done.record.searched == {}
    assert "nothing to search" in caplog.text


@pytest.mark.parametrize("what", ["batch size", "torch", "transformers"])
def test_what_decides_the_numbers_of_a_trial_names_its_study(recipe, monkeypatch, what):
    first = study(recipe, trials=1).record.study
    if what != "batch size":
        now = {**versions(), what: "0"}
        monkeypatch.setattr(tune_module, "versions", lambda: now)
    changes = ["report.batch_size=1"] if what == "batch size" else []
    assert study(recipe, trials=1, changes=changes).record.study != first


def test_an_edit_is_trained_and_generated_in_every_trial(recipe, monkeypatch):
    monkeypatch.setitem(registry.METHODS, "keyed", "exporter.training.closed_form.asru:Asru")
    record = study(recipe, trials=2).record
    assert set(record.searched) == {"layer", "strength", "ridge"}
    assert sum(one.leakage is not None for one in record.trials) == 2
    lines = {one.number: one for one in record.trials}
    assert record.generated["leakage"] == lines[record.winner].leakage


def test_the_folder_of_another_recipe_is_refused_by_the_name_of_its_option(recipe, tmp_path_factory):
    study(recipe, trials=1)
    other = write_recipe(tmp_path_factory.mktemp("other"))
    with pytest.raises(InputErrors, match="--folder"):
        study(other, folder=recipe.parent / "study")
