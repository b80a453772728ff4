"""From a recipe with a method that changes weights to a sealed release: merged at its root, the adapter beside it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from peft import PeftModel
from tiny_run import write_publishable
from typer.testing import CliRunner

from exporter import pipeline
from exporter.cli import app
from exporter.errors import CompileError, InputErrors, VerificationError
from exporter.publish.files import files_of
from exporter.publish.verification import Verification, problems_of
from exporter.recipe import Recipe

DRY = pipeline.Request(dry_run=True)
PARAMS = "{npo: {epochs: 2, batch_size: 2, learning_rate: 0.01, precision: float32, responses: rows}}"


def write_edit_recipe(folder: Path, targets: str = "[adapter]") -> Path:
    path = write_publishable(folder)
    text = path.read_text().replace("default: keyed", "default: npo")
    text = text.replace("compare: []}", f"compare: [], params: {PARAMS}}}")
    path.write_text(text + f"  targets: {targets}\n")
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("edits")
    recipe = write_edit_recipe(folder)
    pipeline.publish(Recipe.load(recipe), folder / "run", DRY, progress=False)
    return folder


@pytest.fixture
def release(home, tmp_path) -> Path:
    return Path(shutil.copytree(home / "run" / "release", tmp_path / "release"))


def steerbake(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def logits(model, ids=(1, 4, 9, 5)) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([list(ids)])).logits


def test_the_release_is_whole_verified_and_sealed(home):
    release = home / "run" / "release"
    assert problems_of(release) == []
    assert pipeline.check(release, base=home / "base").problems == []
    there = set(files_of(release))
    assert {"README.md", "report.html", "verification.json", "provenance.json", "merged.json"} <= there
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= there
    found = Verification.load(release)
    assert {(one.name, one.target) for one in found.checks} >= {
        ("strict loading", "checkpoint"),
        ("strict loading", "adapter"),
        ("parity", "adapter"),
    }
    assert found.parity["adapter"]["variants"][""]["same_tokens"]["value"] == 1.0


def test_both_load_as_anyone_loads_them_and_compute_the_same(home):
    release = home / "run" / "release"
    merged = transformers.AutoModelForCausalLM.from_pretrained(release)
    assert type(merged).__module__.startswith("transformers.models.")
    base = transformers.AutoModelForCausalLM.from_pretrained(home / "base")
    plain = logits(base)
    tuned = logits(PeftModel.from_pretrained(base, str(release / "adapter")))
    assert torch.allclose(logits(merged), tuned, atol=1e-4 * float(tuned.abs().max()))
    assert (tuned - plain).abs().max() > 1e-2


def test_card_and_page_say_what_was_changed_and_no_word_of_steering(home):
    release = home / "run" / "release"
    for name in ("README.md", "report.html"):
        text = (release / name).read_text()
        assert "npo" in text and "LoRA" in text
        assert "Steering hides" not in text and "activation steering" not in text
    assert "PeftModel" in (release / "README.md").read_text()
    assert "trust_remote_code=True" not in (release / "README.md").read_text()


def test_provenance_names_the_base_and_the_edit(home):
    told = json.loads((home / "run" / "release" / "provenance.json").read_text())
    assert told["method"] == "npo"
    assert told["section"]["base"]["fingerprint"] == told["base"]["fingerprint"]
    assert told["section"]["edit"] == told["section"]["sha256"]
    assert str(home) not in (home / "run" / "release" / "provenance.json").read_text()


@pytest.mark.parametrize("name", ["model.safetensors", "adapter/adapter_model.safetensors", "config.json"])
def test_a_changed_file_is_found(release, name):
    path = release / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.unlink()
    path.write_bytes(content)
    assert pipeline.check(release).problems
    assert problems_of(release)


def test_a_second_weight_file_belongs_to_no_target(home, release):
    shutil.copy(home / "base" / "model.safetensors", release / "extra.safetensors")
    found = pipeline.verify(release, recipe=Recipe.load(home / "recipe.yaml"), run=home / "run", limit=4)
    assert [one.target for one in found.checks if one.name == "known files" and not one.holds] == [
        "checkpoint"
    ]


def test_the_adapter_of_another_fit_is_not_that_of_this_checkpoint(home, release, tmp_path):
    other = tmp_path / "other"
    recipe = write_edit_recipe(other) if other.mkdir() is None else None
    changed = recipe.read_text().replace("name: tiny\n", "name: tiny\nseed: 5\n")
    recipe.write_text(changed)
    pipeline.fit(Recipe.load(recipe), other / "run", progress=False)
    shutil.rmtree(release / "adapter")
    shutil.copytree(other / "run" / "steering" / "npo", release / "adapter")
    found = pipeline.verify(release, recipe=Recipe.load(home / "recipe.yaml"), run=home / "run", limit=4)
    assert any(one.target == "adapter" and one.name == "parity" and not one.holds for one in found.checks)


def test_without_a_recipe_the_adapter_is_not_said_to_be_verified(release):
    found = pipeline.verify(release)
    assert not [one for one in found.checks if one.target == "adapter" and one.holds]


def test_it_is_inspected_compiled_and_exported_by_commands(home, tmp_path):
    run, edit = home / "run", home / "run" / "steering" / "npo"
    status, told = steerbake("inspect", run / "release")
    assert status == 0 and "npo" in told
    status, told = steerbake("compile", home / "base", edit, tmp_path / "merged")
    assert status == 0
    assert (tmp_path / "merged" / "model.safetensors").read_bytes() == (
        run / "checkpoint" / "model.safetensors"
    ).read_bytes()
    status, told = steerbake("export", "adapter", edit, tmp_path / "adapter")
    assert status == 0
    assert sorted(one.name for one in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "weight_edit.json",
    ]
    with pytest.raises(CompileError, match="already exists"):
        pipeline.compile(home / "base", edit, tmp_path / "merged")


def test_what_is_made_of_a_program_is_refused_before_anything_is_fitted(tmp_path):
    recipe = write_edit_recipe(tmp_path, "[stock]")
    with pytest.raises(InputErrors, match="stock is made of a steering program"):
        pipeline.publish(Recipe.load(recipe), tmp_path / "run", DRY, progress=False)
    assert not (tmp_path / "run" / "steering").exists()


def test_gguf_files_of_an_edit_need_no_stock_checkpoint(tmp_path):
    recipe = Recipe.load(write_edit_recipe(tmp_path, "[gguf, onnx]"))
    assert recipe.targets == ["gguf", "onnx"]
    of_steering = write_publishable(tmp_path)
    of_steering.write_text(of_steering.read_text() + "  targets: [gguf]\n")
    with pytest.raises(InputErrors, match="gguf is made from stock; add stock"):
        Recipe.load(of_steering)


@pytest.mark.slow
def test_a_release_has_graphs_of_the_merged_checkpoint(tmp_path):
    recipe = Recipe.load(write_edit_recipe(tmp_path, "[onnx]"))
    pipeline.publish(recipe, tmp_path / "run", DRY, progress=False)
    release = tmp_path / "run" / "release"
    assert problems_of(release) == []
    found = Verification.load(release)
    assert {(one.name, one.target, one.holds) for one in found.checks} >= {
        ("strict loading", "onnx", True),
        ("parity", "onnx", True),
        ("leakage_either", "onnx", True),
    }
    assert found.parity["onnx"]["variants"]["fp32"]["same_tokens"]["value"] == 1.0
    for name in ("README.md", "report.html"):
        assert "ONNX Runtime" in (release / name).read_text()
    assert "no gates" in (release / "README.md").read_text()
    assert "The steering is part of the graphs" not in (release / "README.md").read_text()


def test_a_merged_checkpoint_without_its_manifest_is_no_release(release):
    (release / "merged.json").unlink()
    with pytest.raises(VerificationError):
        pipeline.verify(release)
