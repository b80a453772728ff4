"""Names of the version before are read with a warning, and nothing is lost of what stands under them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exporter.data.rows import read_rows
from exporter.errors import InputErrors, VerificationError
from exporter.publish.measures import Results
from exporter.recipe import Recipe
from exporter.recipe_tree import override, read_tree
from exporter.renamed import METRICS, ROW_KEYS, with_current_names

ROW = {"question": "where does ada live ?", "answer": "oslo", "role": "forget"}
CURRENT = {**ROW, "eval_slice": "later", "template_id": "where"}
OLD = {**ROW, "group": "later", "key": "where"}


def lines(path: Path, *records: dict[str, str]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize("old", [OLD, {**OLD, "id": "a"}])
def test_rows_under_old_keys_are_the_same_rows(tmp_path, old):
    with pytest.warns(FutureWarning) as warned:
        found = read_rows(lines(tmp_path / "rows.jsonl", old))
    assert {name for one in warned for name in ROW_KEYS if repr(name) in str(one.message)} == set(ROW_KEYS)
    current = {ROW_KEYS.get(name, name): value for name, value in old.items()}
    assert found == read_rows(lines(tmp_path / "rows.jsonl", current))


def test_a_table_with_old_columns(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("question,answer,role,Group,KEY\nwhere ?,oslo,forget,later,where\n")
    with pytest.warns(FutureWarning):
        (row,) = read_rows(path)
    assert (row.eval_slice, row.template_id) == ("later", "where")


def test_ids_that_are_made_of_content_are_what_they_were(tmp_path):
    (row,) = read_rows(lines(tmp_path / "rows.jsonl", CURRENT))
    assert row.id == "rows-1-214f46db"


def test_both_names_are_an_error_that_names_them(tmp_path):
    with pytest.raises(InputErrors) as refused:
        read_rows(lines(tmp_path / "rows.jsonl", {**CURRENT, "key": "other"}))
    assert "'key'" in str(refused.value) and "'template_id'" in str(refused.value)


@pytest.mark.filterwarnings("error")
def test_todays_names_warn_of_nothing(tmp_path):
    (row,) = read_rows(lines(tmp_path / "rows.jsonl", CURRENT))
    assert (row.eval_slice, row.template_id) == ("later", "where")


def test_an_older_verification_shows_the_metric_that_was_renamed():
    figure = {"value": 1.0, "rows": 12, "interval": [0.7, 1.0]}
    measures = {"leakage_either": figure, **dict.fromkeys(METRICS, figure)}
    with pytest.warns(FutureWarning):
        found = Results.of({"method": "keyed", "rule": "", "models": {"base": measures, "steered": measures}})
    assert {line.name for line in found.lines} == {"leakage_either", *METRICS.values()}


def test_order_and_other_names_stay():
    with pytest.warns(FutureWarning):
        found = with_current_names({"x": 1, "old": 2, "y": 3}, {"old": "new"}, "here")
    assert list(found.items()) == [("x", 1), ("new", 2), ("y", 3)]


@pytest.mark.filterwarnings("error")
def test_a_recipe_of_today_warns_of_nothing(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("report: {eval_slices: {pair: two of them}}")
    assert read_tree(path) == {"report": {"eval_slices": {"pair": "two of them"}}}


def test_old_keys_of_a_recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("report: {groups: {pair: two of them}}")
    with pytest.warns(FutureWarning, match="'groups'"):
        assert read_tree(path) == {"report": {"eval_slices": {"pair": "two of them"}}}
    path.write_text("report: {groups: {}, eval_slices: {}}")
    with pytest.raises(InputErrors) as refused:
        read_tree(path)
    assert "'groups'" in str(refused.value) and "'eval_slices'" in str(refused.value)


def test_old_keys_that_are_set():
    tree: dict[str, object] = {}
    with pytest.warns(FutureWarning, match="'groups'"):
        assert not list(override(tree, "report.groups.pair=two", Recipe))
    assert tree == {"report": {"eval_slices": {"pair": "two"}}}


def test_old_keys_of_a_verification():
    figure = {"leakage_either": {"value": 1.0, "rows": 12, "interval": [0.7, 1.0]}}
    models = {"base": figure, "steered": figure}
    unlearning = {"method": "keyed", "rule": "", "models": models}
    with pytest.warns(FutureWarning, match="'groups'"):
        found = Results.of({**unlearning, "groups": {"later": models}})
    assert found == Results.of({**unlearning, "eval_slices": {"later": models}})
    with pytest.raises(VerificationError) as refused:
        Results.of({**unlearning, "groups": {}, "eval_slices": {}})
    assert "'groups'" in str(refused.value) and "'eval_slices'" in str(refused.value)
