"""What the manifest of a distilled adapter says of it is measured again, and refused where it is not found."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
from random_edits import random_edit
from tiny_run import Quick, write_publishable
from transformers import AutoModelForCausalLM

from exporter import pipeline, registry
from exporter.digests import digest_of_file
from exporter.errors import VerificationError
from exporter.pipeline.export import context_within
from exporter.pipeline.run import Run
from exporter.publish.verification import FIGURES
from exporter.recipe import Recipe
from exporter.targets.lora.again import compared
from exporter.targets.lora.manifest import Fidelity, LoraManifest
from exporter.targets.lora.target import LoraOptions
from exporter.targets.values import Nearness

TOLD = Fidelity(forget=0.3, forget_rows=20, kept=0.03, kept_rows=40)
SAME = Nearness(0.31, 20, 0.031, 40)


def test_the_same_figures_hold() -> None:
    assert compared(TOLD, SAME, {}).holds
    assert compared(TOLD, SAME, {"divergence_forget": 0.4, "divergence_kept": None}).holds


@pytest.mark.parametrize(
    ("now", "bounds", "words"),
    [
        (Nearness(0.5, 20, 0.03, 40), {}, "states 0.3 where a gate is on, but 0.5 is measured"),
        (Nearness(0.1, 20, 0.03, 40), {}, "but 0.1 is measured"),
        (Nearness(0.3, 20, 0.06, 40), {}, "states 0.03 elsewhere, but 0.06 is measured"),
        (Nearness(float("nan"), 20, 0.03, 40), {}, "but nan is measured"),
        (Nearness(0.3, 19, 0.03, 40), {}, "the recipe's rows are others"),
        (SAME, {"divergence_forget": 0.2}, "publish.require.divergence_forget"),
        (SAME, {"divergence_kept": 0.01}, "at most 0.01 elsewhere is required"),
    ],
)
def test_other_figures_do_not(now, bounds, words) -> None:
    found = compared(TOLD, now, bounds)
    assert not found.holds and words in found.message


def test_figures_over_no_conversation_are_none() -> None:
    nothing = Fidelity(forget=0.0, forget_rows=0, kept=0.0, kept_rows=40)
    found = compared(nothing, Nearness(0.0, 0, 0.0, 40), {})
    assert not found.holds and "no conversation where a gate is on" in found.message


@pytest.mark.parametrize("left_out", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_manifest_lists_the_whole_adapter(left_out, tmp_path) -> None:
    """A file that it does not list is held to nothing."""
    files = {
        name: "0" * 64 for name in ("adapter_model.safetensors", "adapter_config.json") if name != left_out
    }
    base = {"architecture": "Tiny", "model_type": "tiny", "fingerprint": "sha256:0"}
    content = {
        "format": "steerbake-lora/1", "teacher": {"method": "keyed", "sha256": "0"}, "base": base, "rank": 2, "seed": 0, "rows": "0",
        "conversations": 3, "settings": {}, "fidelity": TOLD.data(), "files": files,
    }  # fmt: skip
    (tmp_path / "lora.json").write_text(json.dumps(content))
    with pytest.raises(VerificationError, match=f"does not list {left_out}"):
        LoraManifest.load(tmp_path)
    (tmp_path / "lora.json").write_text(json.dumps({**content, "files": {**files, left_out: "0" * 64}}))
    assert LoraManifest.load(tmp_path).rank == 2


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A run with a checkpoint, and an adapter of it: random matrices under the figures that are measured of them."""
    home = tmp_path_factory.mktemp("again")
    patch = pytest.MonkeyPatch()
    patch.setitem(registry.METHODS, "keyed", f"{Quick.__module__}:{Quick.__name__}")
    pipeline.run(Recipe.load(write_publishable(home)), home / "run", progress=False)
    patch.undo()
    return home


def adapter(home: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    edit = random_edit(home / "base", AutoModelForCausalLM.from_pretrained(home / "base"))
    monkeypatch.setattr("exporter.pipeline.distillation.distil", lambda *_, **__: edit)
    monkeypatch.setattr("exporter.pipeline.distillation.NEARER", math.inf)  # random matrices say nothing
    work = Run(Recipe.load(home / "recipe.yaml"), home / "run", progress=False)
    target = registry.target("lora")
    return target.export(home / "run" / "checkpoint", out, LoraOptions(rank=3), context_within(work))


@pytest.mark.slow
def test_verification_measures_them(home, tmp_path, monkeypatch) -> None:
    folder = adapter(home, tmp_path / "lora", monkeypatch)
    recipe = Recipe.load(home / "recipe.yaml")

    def found(folder: Path, recipe: Recipe = recipe, name: str = FIGURES):
        report = tmp_path / "verification.json"
        asked = {"recipe": recipe, "run": home / "run", "limit": 4, "report": report}
        checks = pipeline.verify(home / "run" / "checkpoint", [folder], **asked).checks
        return [one for one in checks if one.name == name]

    (parity,) = found(folder, name="parity")  # random matrices do not say what the checkpoint says
    assert not parity.holds and "equal the checkpoint's, at least 0.9 are needed" in parity.told
    (whole,) = found(folder)
    assert whole.holds and whole.value["forget_rows"] > 0 and whole.value["kept_rows"] > 0
    manifest = json.loads((folder / "lora.json").read_text())
    assert whole.value["forget"] == pytest.approx(manifest["fidelity"]["forget"], rel=1e-3)
    better = Path(shutil.copytree(folder, tmp_path / "better"))
    manifest["fidelity"] |= {"forget": 0.0, "kept": 0.0}
    (better / "lora.json").write_text(json.dumps(manifest))
    (told,) = found(better)
    assert not told.holds and "states 0 where a gate is on" in told.told
    assert (
        digest_of_file(better / "adapter_model.safetensors") == manifest["files"]["adapter_model.safetensors"]
    )
    strict = Recipe.load(home / "recipe.yaml", ["publish.require.divergence_kept=0"])
    (beyond,) = found(folder, strict)
    assert not beyond.holds and "divergence_kept" in beyond.told
