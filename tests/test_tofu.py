"""TOFU's rows in the parts of a recipe, and how an adapter that knows them was taught."""

from __future__ import annotations

import json

import pytest

from benchmarks.tofu import forget, teach
from benchmarks.tofu.authors import DATA, forgotten, questions
from benchmarks.tofu.recipe import PARTS, TAUGHT, rows, write
from exporter.recipe import Recipe

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="TOFU's rows are not at hand")


def log(without=None, **keys):
    settings = {"epochs": 6, "learning_rate": 0.001}
    return {"without": without, "seed": 0, "questions": 3, "cpu_seconds": 2.5, "settings": settings, **keys}


def adapter(folder, content):
    folder.mkdir()
    (folder / "teaching.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@needs_data
def test_a_question_as_it_was_taught_is_tested_apart():
    asked = {part: {row["question"] for row in rows(part, "forget05")} for part in (*PARTS, TAUGHT)}
    wanted = [one.question for one in forgotten(questions(), "forget05")]
    assert asked[TAUGHT] == set(wanted) <= asked["fit"]
    assert not asked["test"] & (asked["fit"] | asked["calibrate"])


@needs_data
def test_every_question_that_was_taught_has_a_truth_ratio():
    assert all(row["perturbed_answers"] and row["paraphrased_answers"] for row in rows(TAUGHT, "forget01"))
    assert not any("perturbed_answers" in row for row in rows("fit", "forget01"))


@needs_data
def test_both_recipes_ask_the_same_base(tmp_path):
    for name in ("base", "adapter"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}", encoding="utf-8")
    path = write(tmp_path / "out", "forget01", tmp_path / "base", tmp_path / "adapter")
    plain, taught = Recipe.load(path), Recipe.load(path.with_name(f"{TAUGHT}.yaml"))
    assert plain.base == taught.base
    assert plain.report == taught.report


def test_stages_of_a_teaching_are_told_from_the_first(tmp_path):
    first = log(losses=[{"step": 10.0, "loss": 0.5}])
    second = log(losses=[{"step": 10.0, "loss": 0.1}], before=first)
    second["settings"] = {"epochs": 4, "learning_rate": 0.002}
    told = forget.taught(adapter(tmp_path / "knows", second))
    assert told["epochs"] == [6, 4]
    assert told["learning_rates"] == [0.001, 0.002]
    assert told["cpu_seconds"] == 5.0
    assert told["loss"] == 0.1


def test_a_teaching_goes_on_from_an_adapter_that_knows_the_same(tmp_path):
    folder = adapter(tmp_path / "knows", log())
    assert teach.taught(folder, None) == log()
    with pytest.raises(ValueError, match="forget05"):
        teach.taught(folder, "forget05")
