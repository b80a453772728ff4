"""An edit belongs to all weights and the settings of one base: what differs from it anywhere is refused, where it is merged and where it is verified."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_run
import torch
import transformers
from random_edits import random_edit
from safetensors.torch import load_file, save_file

from exporter import registry
from exporter.digests import digest_of_file
from exporter.errors import CompileError, VerificationError
from exporter.host import ModelHost
from exporter.look_inside import section_of
from exporter.targets.base_weights import BaseWeights
from exporter.targets.edited_base import edited_base, why_other_base
from exporter.targets.merged.export import export_merged
from exporter.targets.values import Reference
from exporter.weight_edit import EditManifest, WeightEdit

SHARD = "model.safetensors"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("edited-base")
    tiny_run.write_base(home / "base")
    edit = random_edit(home / "base", transformers.AutoModelForCausalLM.from_pretrained(home / "base"))
    (home / "edit").mkdir()
    edit.save(home / "edit")
    export_merged(home / "base", edit, home / "merged")
    return home


@pytest.fixture
def base(home, tmp_path) -> Path:
    return Path(shutil.copytree(home / "base", tmp_path / "base"))


def set_in(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def late(folder: Path) -> str:
    """Changes the last number of a tensor that is longer than what the fingerprint reads; returns its name."""
    tensors = load_file(folder / SHARD)
    name = max(tensors, key=lambda one: tensors[one].numel())
    assert tensors[name].numel() * tensors[name].element_size() > 4096
    tensors[name].view(-1)[-1] += 1
    save_file(tensors, folder / SHARD, metadata={"format": "pt"})
    return name


ANOTHER = {
    "epsilon": {"rms_norm_eps": 0.5},
    "rotary base": {"rope_parameters": {"rope_theta": 77.0, "rope_type": "default"}},
    "unknown key": {"some_new_scale": 2.0},
}


@pytest.mark.parametrize("what", ANOTHER)
def test_the_same_weights_under_other_settings_are_refused(home, base, tmp_path, what):
    set_in(base, **ANOTHER[what])
    with pytest.raises(CompileError, match=rf"config\.{next(iter(ANOTHER[what]))}.* is not what it was"):
        export_merged(base, WeightEdit.load(home / "edit"), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_config_that_is_spelled_otherwise_is_the_same(home, base, tmp_path):
    """Defaults written out, and keys that say how a model is run or from where it is."""
    config = transformers.AutoConfig.from_pretrained(base)
    (base / "config.json").write_text(json.dumps(config.to_dict()))
    set_in(base, _name_or_path="/home/somebody/model", dtype="bfloat16", use_cache=False, pad_token_id=5)
    assert why_other_base(edited_base(home / "base"), base) == []
    assert export_merged(base, WeightEdit.load(home / "edit"), tmp_path / "merged").is_dir()


def test_a_difference_that_the_fingerprint_does_not_read_is_refused(home, base, tmp_path):
    late(base)
    assert BaseWeights.read(base).fingerprint() == BaseWeights.read(home / "base").fingerprint()
    with pytest.raises(CompileError, match="in places that the fingerprint does not read"):
        export_merged(base, WeightEdit.load(home / "edit"), tmp_path / "merged")


def test_an_edit_of_the_merged_model_is_none_of_its_base(home, base, tmp_path):
    late(base)  # as an edit of a few later neurons leaves it
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    again = random_edit(base, model, seed=3)
    with pytest.raises(CompileError, match="another model"):
        export_merged(home / "base", again, tmp_path / "merged")


def test_the_digest_does_not_depend_on_shards(home, tmp_path):
    model = transformers.AutoModelForCausalLM.from_pretrained(home / "base")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    many, one = BaseWeights.read(tmp_path / "shards"), BaseWeights.read(home / "base")
    assert len(many.shards) > 1 and many.sha256() == one.sha256()


@pytest.mark.parametrize("kind", ["settings", "weights"])
def test_an_adapter_is_not_verified_on_another_base(home, base, kind):
    set_in(base, rms_norm_eps=0.5) if kind == "settings" else late(base)
    host = ModelHost.load(home / "merged", dtype=torch.float32)
    section = section_of(home / "merged")
    target = registry.target("adapter")
    assert target.open(home / "edit", Reference(section, host, base=home / "base")).wrong == []
    with pytest.raises(VerificationError, match="another base than the recipe's"):
        target.open(home / "edit", Reference(section, host, base=base))
    assert registry.target("merged").open(home / "merged", Reference(section, host, base=base)).wrong


def test_a_merged_checkpoint_with_other_settings_is_not_opened(home, tmp_path):
    """Though its manifest was made to name the changed config."""
    folder = Path(shutil.copytree(home / "merged", tmp_path / "merged"))
    set_in(folder, rms_norm_eps=0.5)
    manifest = json.loads((folder / "merged.json").read_text())
    manifest["files"]["config.json"] = digest_of_file(folder / "config.json")
    (folder / "merged.json").write_text(json.dumps(manifest))
    target = registry.target("merged")
    host = ModelHost.load(home / "merged", dtype=torch.float32)
    reference = Reference(section_of(home / "merged"), host)
    for look in (
        lambda: section_of(folder),
        lambda: target.summary(folder, checked=True),
        lambda: target.chat(folder, dtype=None, say=print),
        lambda: target.open(folder, reference),
    ):
        with pytest.raises(VerificationError, match=r"config\.rms_norm_eps is not what it was"):
            look()


def test_an_edit_of_before_is_accepted_with_a_note(home, base, tmp_path, caplog):
    """It says nothing of settings and of all weights; its own digest is what it was."""
    edit = replace(WeightEdit.load(home / "edit"), weights=None, settings=None)
    (tmp_path / "old").mkdir()
    edit.save(tmp_path / "old")
    told = json.loads((tmp_path / "old" / "weight_edit.json").read_text())
    assert set(told["base"]) == {"architecture", "model_type", "fingerprint"}
    assert WeightEdit.load(tmp_path / "old").sha256 == edit.sha256
    late(base)
    with caplog.at_level(logging.WARNING):
        out = export_merged(base, WeightEdit.load(tmp_path / "old"), tmp_path / "merged")
    assert "only its fingerprint is compared" in caplog.text
    assert json.loads((out / "merged.json").read_text())["edit"] == edit.sha256
    shown = registry.target("merged").summary(out, checked=True)
    assert shown is not None and any("earlier version" in cell for row in shown.rows for cell in row)
    assert "base" not in {*section_of(out)["base"]} and "settings" not in section_of(out)["base"]


def test_what_is_noted_survives_its_file(home):
    edit = WeightEdit.load(home / "edit")
    assert edit.edited_base == edited_base(home / "base")
    assert EditManifest.load(home / "edit").base.settings["rms_norm_eps"] == 1e-6
    with pytest.raises(ValueError, match="is of a LlamaForCausalLM"):
        edit.bound_to(edit.edited_base.model_copy(update={"architecture": "Other"}))
