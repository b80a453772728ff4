"""The recipes that come with the package: they load, and their rows keep what is said of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from exporter.data.rows import read_rows
from exporter.recipe import Recipe
from exporter.splits import Splits
from exporter.types import Row
from exporter.wording.words import contains_words

FOLDER = Path(__file__).resolve().parent.parent / "export_configs"
RECIPES = sorted(FOLDER.rglob("*.yaml"))
SMOLLM2 = sorted(FOLDER.glob("llama/smollm2_forget_*/"))


def rows(folder: Path) -> Splits:
    return Splits(*(tuple(read_rows(folder / f"{part}.jsonl")) for part in ("fit", "calibrate", "test")))


def asked(row: Row) -> set[str]:
    return {row.question, *row.paraphrases, *(turn.question for turn in row.history)}


def subjects(row: Row) -> set[str]:
    """What fills the gap in the row's ``key``."""
    found = re.fullmatch(
        re.escape(row.template_id or "").replace(r"\{\}", "(.+)"), row.question, re.IGNORECASE
    )
    return set(found.groups()) if found else set()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_bundled_recipe_loads_with_its_rows(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    recipe = Recipe.load(path, [f"base.path={FOLDER}"] if ".cache/" in text else [])
    for part in (recipe.data.fit, recipe.data.calibrate, recipe.data.test):
        assert part and all(read_rows(recipe.locate(source.path or "")) for source in part)


def test_every_smollm2_recipe_has_its_rows_and_their_origin() -> None:
    assert len(SMOLLM2) >= 2
    for folder in SMOLLM2:
        assert folder.with_suffix(".yaml").is_file()
        assert (folder / "README.md").is_file()


@pytest.mark.parametrize("folder", SMOLLM2, ids=lambda path: path.name)
def test_no_question_of_a_smollm2_recipe_stands_in_two_files(folder: Path) -> None:
    parts = rows(folder)
    parts.check(folder.name)
    every = [{row.question for row in part} for part in (parts.fit, parts.calibrate, parts.test)]
    assert sum(map(len, every)) == len(set().union(*every))


@pytest.mark.parametrize("folder", SMOLLM2, ids=lambda path: path.name)
def test_no_wording_that_is_tested_is_fitted(folder: Path) -> None:
    parts = rows(folder)
    seen = [*parts.fit, *parts.calibrate]
    keys = {row.template_id for row in parts.test if row.role == "forget" and row.template_id is not None}
    assert not keys & {row.template_id for row in seen}
    filled = {key.format(subject).casefold() for key in keys for subject in set().union(*map(subjects, seen))}
    assert not filled & {question.casefold() for question in set().union(*map(asked, seen))}


@pytest.mark.parametrize("folder", SMOLLM2, ids=lambda path: path.name)
def test_secrets_stand_in_the_answers_to_forget_and_in_no_other(folder: Path) -> None:
    parts = rows(folder)
    every = [*parts.fit, *parts.calibrate, *parts.test]
    secrets = {secret for row in every for secret in row.secrets}
    for row in every:
        held = [secret for secret in secrets if contains_words(row.answer, secret)]
        assert bool(held) == (row.role == "forget"), row.id
