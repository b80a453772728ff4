"""Whatever a recipe, a base or a card holds: it is told, and nothing is raised."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import sound_recipe
import yaml
from sound_recipe import problems

from exporter import pipeline
from exporter.recipe import Recipe
from steer_modules.twin import twin_config

sound, recipe = sound_recipe.sound, sound_recipe.recipe


def test_thousands_of_problems_are_counted(recipe: Path) -> None:
    (recipe.parent / "test.jsonl").write_text('{"id": "a"}\n' * 4000)
    found = problems(recipe)
    assert len(found) < 30 and any("more like these" in line for line in found)


@pytest.mark.parametrize(
    ("card", "named"),
    [
        (b"---\nlicense: mit\n---\nA caf\xe9.", "mit"),
        (b"---\n: [\n---\n", None),
        (b"---\n- a\n---\n", None),
        (b"", None),
    ],
)
def test_a_card_that_is_no_card_says_nothing(tmp_path: Path, card: bytes, named: str | None) -> None:
    from exporter.pipeline.staging import license_of as stated_license
    from exporter.targets.onnx.manifest import license_of

    (tmp_path / "README.md").write_bytes(card)
    assert stated_license(tmp_path)["license"] == named
    assert license_of(tmp_path)


ODD = [
    None,
    3,
    -1,
    0.5,
    True,
    "",
    "x",
    "\u0000",
    [],
    [1],
    [None],
    {},
    {"x": 1},
    {"path": "gone"},
    [{"path": "fit.jsonl"}],
    ["fit.jsonl"],
]


def test_whatever_a_recipe_holds_it_is_told_and_nothing_is_raised(recipe: Path) -> None:
    told = yaml.safe_load(recipe.read_text())
    places = [(key,) for key in Recipe.model_fields]
    places += [
        ("base", "path"),
        ("data", "fit"),
        ("data", "calibrate"),
        ("data", "test"),
        ("data", "calibrate_fraction"),
    ]
    places += [
        ("methods", "params"),
        ("methods", "default"),
        ("report", "max_new_tokens"),
        ("chat", "system"),
    ]
    for place in places:
        for value in ODD:
            whole = json.loads(json.dumps(told))
            section = whole if len(place) == 1 else whole.setdefault(place[0], {})
            section[place[-1]] = value
            recipe.write_text(yaml.safe_dump(whole))
            pipeline.check_recipe(recipe)


def config_of_any(config: Any) -> None:
    """In place of the proof: what it begins with."""
    json.dumps(twin_config(config).to_dict(), default=str)


@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer_config.json", "generation_config.json", "tokenizer.json"]
)
def test_whatever_a_base_holds_it_is_told_and_nothing_is_raised(
    recipe: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        import_module("exporter.pipeline.preflight"), "prove_family", config_of_any
    )  # seconds
    base = recipe.parent / "base"
    whole = json.loads((base / file).read_text())
    for key in {*whole, "quantization_config", "text_config", "auto_map"}:
        for value in ODD:
            (base / file).write_text(json.dumps({**whole, key: value}))
            pipeline.check_recipe(recipe)
    for content in (b"", b"[]", b"{", b"\xff", b"null"):
        (base / file).write_bytes(content)
        pipeline.check_recipe(recipe)
