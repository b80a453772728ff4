"""What a base, or a recipe, cannot hold of a weight edit is told before anything is trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import tiny_run

from exporter.pipeline.preflight import preflight
from exporter.reader import loaded_config
from exporter.recipe import Recipe
from exporter.targets.base_weights import BaseWeights
from exporter.targets.merged.deltas import unmergeable
from exporter.training.lora import linear_layers

NPO = ("methods.default=npo", "methods.compare=[]")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return tiny_run.write_publishable(tmp_path)


def problems(recipe: Path, *changes: str, publishing: bool = False) -> list[str]:
    return list(preflight(Recipe.load(recipe, changes), publishing=publishing).problems)


def test_a_sound_recipe_has_none(recipe: Path) -> None:
    assert problems(recipe, *NPO) == []


def test_layers_that_no_file_has_by_themselves_are_told(tmp_path: Path) -> None:
    """A head that is tied to the embeddings, as an edit would change both."""
    model = tiny.build("llama", text={"tie_word_embeddings": True})
    model.save_pretrained(tmp_path)
    weights, config = (
        BaseWeights.read(tmp_path),
        loaded_config(json.loads((tmp_path / "config.json").read_text())),
    )
    assert unmergeable(linear_layers, config, weights) == []
    (told,) = unmergeable(lambda _: ["lm_head"], config, weights)
    assert told.startswith("lm_head is no tensor of its own") and "cannot be merged" in told
    (told,) = unmergeable(lambda model: [*linear_layers(model), "lm_head", "other"], config, weights)
    assert "and 1 other layers are no tensor" in told
    packed = {name: one._replace(dtype="I8") for name, one in weights.tensors.items()}
    (told,) = unmergeable(linear_layers, config, replace(weights, tensors=packed))
    assert "I8, quantised" in told


def test_what_cannot_be_merged_stops_the_recipe(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.pipeline.edit_checks.unmergeable", lambda *_: ["x is no tensor of its own"])
    assert problems(recipe, *NPO) == ["base: x is no tensor of its own"]
    assert problems(recipe) == [], "a steering method merges nothing"
    assert problems(recipe, "methods.default=manu", "methods.compare=[]") == [], (
        "manu edits layers of its own choice"
    )


def test_a_text_model_has_no_vision_to_edit(recipe: Path) -> None:
    (told,) = problems(recipe, *NPO, "methods.params.npo={vision: true}")
    assert told == "methods.params.npo.vision: a base of type 'llama' takes no images; remove it"


def test_parameters_of_a_method_that_is_not_used_are_remarked(recipe: Path) -> None:
    found = preflight(Recipe.load(recipe, [*NPO, "methods.params.rmu={}"]))
    assert any(one.startswith("methods.params.rmu has no effect") for one in found.remarks)


def test_a_release_needs_retain_rows_to_be_tested_on(recipe: Path) -> None:
    path = recipe.parent / "test.jsonl"
    kept = [line for line in path.read_text().splitlines() if json.loads(line)["role"] != "retain"]
    path.write_text("\n".join(kept) + "\n")
    assert problems(recipe, *NPO) == []
    (told,) = problems(recipe, *NPO, publishing=True)
    assert "no row of role retain" in told and "publish.require.retain_identical" in told
