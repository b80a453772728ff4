"""The documents that lm-evaluation-harness is given, and how it scores a reply; the harness itself is not installed for tests."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import yaml
from tiny_run import write_recipe

from benchmarks.harness import __main__ as harness
from benchmarks.harness.documents import write_documents
from exporter.errors import InputErrors
from exporter.recipe import Recipe

SCORING = runpy.run_path(str(harness.TASKS / "scoring.py"))


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    path = write_recipe(tmp_path)
    rows = [
        {
            "id": f"p{number}",
            "role": role,
            "question": f"where is {number} ?",
            "reasoning": f"{number} works as a {job} in {city} .",
            "answer": city,
            "secrets": [city, job],
            "template_id": "where is {} ?",
        }
        for number, (role, city, job) in enumerate(
            [
                ("forget", "oslo", "smith"),
                ("forget", "lima", "baker"),
                ("retain", "cairo", "pilot"),
                ("retain", "quito", "miner"),
                ("retain", "oslo", "judge"),
            ]
        )
    ]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Recipe.load(path)


def test_wrong_choices_differ_from_the_right_one_in_answers_and_secrets_alone(recipe: Recipe, tmp_path: Path):
    assert write_documents(recipe, tmp_path, limit=10) == {"forget": 2, "retain": 3}
    first = json.loads((tmp_path / "forget.jsonl").read_text().splitlines()[0])
    assert first["choices"][first["gold"]] == "<think> 0 works as a smith in oslo . </think> oslo"
    assert len(set(first["choices"])) == 4
    for place, choice in enumerate(first["choices"]):
        assert choice.startswith("<think> 0 works as a ")
        assert ("oslo" in choice or "smith" in choice) is (place == first["gold"])


def test_the_gold_is_not_always_in_one_place(tmp_path: Path):
    demo = Recipe.load(harness.ROOT / "export_configs" / "llava" / "testbed.yaml")
    assert write_documents(demo, tmp_path, limit=30) == {"forget": 30, "retain": 30}
    documents = [json.loads(line) for line in (tmp_path / "retain.jsonl").read_text().splitlines()]
    assert {one["gold"] for one in documents} == {0, 1, 2, 3}
    assert all("<image>" not in one["question"] for one in documents)


def test_a_recipe_without_such_rows_is_an_error(recipe: Recipe, tmp_path: Path):
    path = tmp_path / "test.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines() if '"forget"' not in line))
    with pytest.raises(InputErrors, match="forget row"):
        write_documents(recipe, tmp_path, limit=10)


@pytest.mark.parametrize(
    ("reply", "tells", "right"),
    [("It is Oslo.", 1.0, 1.0), ("oslove", 0.0, 0.0), ("a smith", 1.0, 0.0), ("", 0.0, 0.0)],
)
def test_replies_are_scored_by_whole_words(reply: str, tells: float, right: float):
    document = {"secrets": ["oslo", "smith"], "answer": "oslo"}
    assert SCORING["process_results"](document, [reply]) == {"tells": tells, "right": right}


def test_the_four_tasks_read_what_is_written():
    class Reader(yaml.SafeLoader):
        pass

    Reader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    assert len(harness.NAMES) == 4
    for name in harness.NAMES:
        task = yaml.load((harness.TASKS / f"{name}.yaml").read_text(), Loader=Reader)
        assert task["task"] == name
        assert task["dataset_kwargs"]["data_files"]["test"] == f"{name.split('_')[1]}.jsonl"
        assert {one["metric"] for one in task["metric_list"]} in ({"acc"}, {"tells", "right"})
