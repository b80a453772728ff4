"""Recipes: everything wrong is said at once, by key path; nothing is dropped in silence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.errors import InputErrors
from exporter.recipe import Recipe
from exporter.registry import METHODS


@pytest.fixture
def good(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "model").mkdir()
    for name in ("fit", "test"):
        (tmp_path / f"{name}.jsonl").write_text("{}\n")
    return {"name": "one", "base": {"path": "model"}, "data": {"fit": ["fit.jsonl"], "test": ["test.jsonl"]}}


def load(folder: Path, tree: Any, *overrides: str) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree))
    return Recipe.load(path, overrides)


def problems(folder: Path, tree: Any, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(InputErrors) as raised:
        load(folder, tree, *overrides)
    return raised.value.problems


def only(found: tuple[str, ...]) -> str:
    assert len(found) == 1, found
    return found[0]


def test_a_minimal_recipe_loads_and_its_paths_start_at_its_file(
    tmp_path: Path, good: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    recipe = load(tmp_path, good)
    assert recipe.data.fit[0].path == "fit.jsonl"
    assert recipe.locate("fit.jsonl") == (tmp_path / "fit.jsonl").resolve()
    assert recipe.locate("/elsewhere/x") == Path("/elsewhere/x").resolve()
    assert recipe.methods.names[0] == recipe.methods.default
    assert set(recipe.methods.names) <= set(METHODS)


def test_everything_wrong_is_reported_at_once_whether_a_schema_sees_it_or_not(
    tmp_path: Path, good: dict[str, Any]
) -> None:
    good["seed"] = "many"
    good["repotr"] = {}
    good["base"] = {"path": "nowhere", "dtypo": "float32"}
    good["data"] = {"fit": ["lost.jsonl", {"path": "fit.jsonl", "dataset": "x"}], "test": ["test.jsonl"]}
    good["refusals"] = {"patterns": ["ok.", "("], "accepted": [" "]}
    good["methods"] = {"default": "forget_it", "params": {"nobody": {}}}
    good["report"] = {"max_new_tokens": 0}
    found = problems(tmp_path, good)
    starts = (
        "seed: ",
        "repotr: unknown key",
        "base.dtypo: unknown key",
        "report.max_new_tokens: ",
        "data.fit.0.path: ",
        "data.fit.1: ",
        "refusals.accepted.0: ",
        "refusals.patterns.1: '('",
        "methods.default: unknown method 'forget_it'; valid methods: asru, ",
        "methods.params.nobody: unknown method 'nobody'",
    )
    for start in starts:
        assert sum(problem.startswith(start) for problem in found) == 1, (start, found)
    assert len(found) == len(starts)


def test_missing_keys_are_named(tmp_path: Path) -> None:
    assert set(problems(tmp_path, {"name": "one"})) == {
        "base: this key is required",
        "data: this key is required",
    }


@pytest.mark.parametrize(
    ("change", "start"),
    [
        ({"base": {}}, "base: "),
        ({"base": {"path": "model", "repo": "a/b"}}, "base: "),
        ({"base": {"path": "model", "revision": "main"}}, "base.revision: "),
        ({"base": {"path": "absent"}}, "base.path: "),
        ({"name": "../up"}, "name: "),
        ({"chat": {"reasoning_template": "<think>{reasoning}</think>"}}, "chat.reasoning_template: "),
        ({"chat": {"reasoning_template": "{answer}{answer}"}}, "chat.reasoning_template: "),
        ({"refusals": {"patterns": [".*"]}}, "refusals.patterns.0: '.*'"),
        ({"data": {"fit": [], "test": ["test.jsonl"]}}, "data.fit: "),
        (
            {"data": {"fit": [{"path": "fit.jsonl", "format": "csv"}], "test": ["test.jsonl"]}},
            "data.fit.0.format: ",
        ),
        (
            {"data": {"fit": [{"path": "fit.jsonl", "rôle": "x"}], "test": ["test.jsonl"]}},
            "data.fit.0.rôle: ",
        ),
        (
            {
                "data": {
                    "fit": ["fit.jsonl"],
                    "calibrate": ["fit.jsonl"],
                    "calibrate_fraction": 0.2,
                    "test": ["test.jsonl"],
                }
            },
            "data: calibrate and calibrate_fraction",
        ),
        ({3: "x"}, "3: "),
    ],
)
def test_one_mistake_gives_one_line(
    tmp_path: Path, good: dict[str, Any], change: dict[Any, Any], start: str
) -> None:
    assert only(problems(tmp_path, {**good, **change})).startswith(start)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: [", "is not YAML"),
        ("- a\n- b\n", "this is list"),
        ("", "this is NoneType"),
        ("name: a\nname: b\n", "key 'name'"),
        ("base: {path: a, path: b}\n", "key 'path'"),
        ("? [a, b]\n: c\n", "cannot be a key"),
        ("name: !!python/object/apply:os.getcwd []\n", "is not YAML"),
    ],
)
def test_what_is_no_recipe_says_so(tmp_path: Path, text: str, says: str) -> None:
    assert says in only(problems(tmp_path, text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputErrors, match=r"absent\.yaml: 1 problem\n.*No such file"):
        Recipe.load(tmp_path / "absent.yaml")
    with pytest.raises(InputErrors, match=re.escape(str(tmp_path))):
        Recipe.load(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputErrors, match="UTF-8"):
        Recipe.load(tmp_path / "binary.yaml")


def test_set_changes_and_adds_keys(tmp_path: Path, good: dict[str, Any]) -> None:
    recipe = load(
        tmp_path,
        good,
        "report.max_new_tokens=7",
        "methods.compare=[]",
        "chat.system=",
        "stand_in=a=b",
        "report.eval_slices.pair=two of them",
    )
    assert recipe.report.max_new_tokens == 7
    assert recipe.methods.compare == []
    assert recipe.chat.system is None
    assert recipe.stand_in == "a=b"
    assert recipe.report.eval_slices == {"pair": "two of them"}


def test_every_bad_set_is_reported(tmp_path: Path, good: dict[str, Any]) -> None:
    found = problems(
        tmp_path, good, "report", "a..b=1", "report.max_tokens=3", "data.fit.0=x", "seed=[", "repotr.x=1"
    )
    assert [problem.split(":")[0] for problem in found] == [
        "'report'",
        "'a..b=1'",
        "report.max_tokens",
        "data.fit.0",
        "seed",
        "repotr.x",
    ]
    assert "'max_tokens'" in found[2] and "max_new_tokens, batch_size, eval_slices" in found[2]
    assert "'['" in found[4] and "YAML" in found[4]


def test_a_set_value_is_validated_like_the_file(tmp_path: Path, good: dict[str, Any]) -> None:
    assert only(problems(tmp_path, good, "seed=-1")).startswith("seed: ")


def test_method_parameters_are_checked_by_the_method_itself(tmp_path: Path, good: dict[str, Any]) -> None:
    pytest.importorskip("exporter.methods.keyed")
    good["methods"] = {"params": {"keyed": {"no_such_parameter": 1}}}
    found = only(problems(tmp_path, good))
    assert found.startswith("methods.params.keyed.no_such_parameter: unknown key; valid keys here: ")
