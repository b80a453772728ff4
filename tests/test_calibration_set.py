"""What a stock layer is calibrated on: fit and calibrate rows in many settings, never a test row."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import tiny_run
from tiny_run import NAMES

from exporter import pipeline
from exporter.errors import CompileError
from exporter.pipeline import calibration_set
from exporter.pipeline.calibration_set import conversations
from exporter.recipe import Recipe
from exporter.types import Encoded


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    home = tmp_path_factory.mktemp("calibration_set")
    recipe = Recipe.load(tiny_run.write_recipe(home))
    return pipeline.Run(recipe, home / "run", progress=False)


@pytest.mark.parametrize("split", ["fit", "calibrate"])
def test_rows_come_in_every_setting(work, split):
    found = conversations(work.context(), work.chat(work.host.processor), split)
    kinds = {(one.kind, one.role) for one in found}
    assert {("single", "forget"), ("single", "retain"), ("later", "forget"), ("later", "retain")} <= kinds
    assert ("begun", "forget") in kinds
    words = {"fit": "where does", "calibrate": "home of"}[split]
    assert all(words in one.prompt.text for one in found)
    assert not any("tell me where" in one.prompt.text for one in found)
    assert found == conversations(work.context(), work.chat(work.host.processor), split)


def test_everyday_requests_are_asked_where_the_tokenizer_has_words(work, monkeypatch):
    """They share nothing between the splits; one of unknown words is left out, as all of the bundled ones are here."""
    plain = {
        split: len(conversations(work.context(), work.chat(work.host.processor), split))
        for split in ("fit", "calibrate")
    }
    known = next(row for row in work.rows.fit if row.role == "retain")
    asked = [
        replace(known, id=f"e{i}", question=f"where does {name} live ?") for i, name in enumerate(NAMES[3:6])
    ]
    monkeypatch.setattr(calibration_set, "generic_prompts", lambda: tuple(asked))
    for split, more in (("fit", 2), ("calibrate", 1)):
        assert (
            len(conversations(work.context(), work.chat(work.host.processor), split)) == plain[split] + more
        )


def test_no_kept_conversation_mentions_the_forgotten_before(work):
    """The flag stays up after a turn about it: such a conversation says nothing about a false alarm."""
    for split in ("fit", "calibrate"):
        for one in conversations(work.context(), work.chat(work.host.processor), split):
            if one.role != "forget":
                assert not any(name in one.prompt.text.split() for name in NAMES[:2]), one.prompt.text


def test_kept_pairs_are_not_answered(work):
    """Their decisions are wanted, not their words: answers are what takes time."""
    found = conversations(work.context(), work.chat(work.host.processor), "fit")
    assert {one.answered for one in found if one.kind == "later" and one.role == "retain"} == {False}
    assert all(one.answered for one in found if one.kind == "single" and one.role == "forget")


def test_another_base_is_refused(tmp_path):
    for name, seed in (("one", 0), ("other", 1)):
        (tmp_path / name).mkdir()
        tiny_run.write_recipe(tmp_path / name, seed=seed)
    tiny_run.steer(tmp_path / "one" / "base", tmp_path / "steered")
    recipe = Recipe.load(tmp_path / "other" / "recipe.yaml")
    with pytest.raises(CompileError, match="another base"):
        pipeline.export("stock", tmp_path / "steered", tmp_path / "out", recipe=recipe, run=tmp_path / "run")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", ["stock", "lora"])
def test_the_same_weights_under_other_settings_are_another_base(tmp_path, target):
    """What would be learned is what a model says that nobody has."""
    recipe = Recipe.load(tiny_run.write_recipe(tmp_path))
    tiny_run.steer(tmp_path / "base", tmp_path / "steered")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 50.0
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CompileError, match=r"another base .*rope_theta is another; give its own recipe"):
        pipeline.export(target, tmp_path / "steered", tmp_path / "out", recipe=recipe, run=tmp_path / "run")
    assert not (tmp_path / "out").exists()


def test_the_command_hands_over_both_splits(tmp_path, monkeypatch):
    home = tmp_path / "same"
    home.mkdir()
    recipe = Recipe.load(tiny_run.write_recipe(home))
    tiny_run.steer(home / "base", tmp_path / "steered")
    seen = {}

    def write(checkpoint, out, base, calibration_set):
        seen.update(checkpoint=checkpoint, calibration_set=calibration_set, layers=base.num_layers)
        out.mkdir()
        (out / "stock.json").write_text("{}")
        return out

    monkeypatch.setattr("exporter.targets.stock.export.export_stock", write)
    out = tmp_path / "out"
    assert out == pipeline.export("stock", tmp_path / "steered", out, recipe=recipe, run=tmp_path / "run")
    assert seen["layers"] == tiny_run.LAYERS
    assert all("where does" in one.prompt.text for one in seen["calibration_set"].fit)
    assert all("home of" in one.prompt.text for one in seen["calibration_set"].held)


def test_the_bundled_model_reads_every_conversation(tmp_path):
    """Images and begun answers together: the processor has to make the ids that the prompt was rendered to."""
    work = pipeline.Run(Recipe.load(pipeline.DEMO_RECIPE), tmp_path / "run", progress=False)
    found = conversations(work.context(), work.chat(work.host.processor), "calibrate")
    begun = [one for one in found if one.kind == "begun"]
    assert any(one.prompt.images for one in begun)
    batch = work.host.batch([Encoded(one.prompt) for one in begun], "left")
    assert len(batch["input_ids"]) == len(begun)
