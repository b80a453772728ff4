"""docs/reference.md is what the models say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from exporter import registry
from exporter.recipe import Recipe
from exporter.recipe_keys import valid_keys
from exporter.reference import meanings_of, reference
from exporter.types import Row

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference.md"


def test_the_committed_page_is_the_generated_one() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run `make reference`"


def test_every_key_stands_in_it() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for section in Recipe.model_fields:
        for key in (section, *valid_keys(Recipe, [section])):
            assert f"| `{key}` |" in text, key
    for field in dataclasses.fields(Row):
        assert f"| `{field.name}` |" in text, field.name
        assert meanings_of(Row)[field.name]


def test_another_default_of_a_shared_parameter_stands_in_it() -> None:
    own = reference().partition("## Parameters of `kuda`")[2].partition("\n## ")[0]
    assert "| `learning_rate` | number or `search` | `0.003` |" in own
    assert "| `epochs` |" not in own


def test_every_metric_stands_in_it() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in text for name in registry.METRICS)


def test_every_section_of_a_recipe_says_what_it_is_for() -> None:
    assert set(meanings_of(Recipe)) == set(Recipe.model_fields)
