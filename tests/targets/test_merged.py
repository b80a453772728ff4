"""A merged checkpoint computes what base and adapter compute, in every family, and is written of that base alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
import transformers
from peft import PeftModel
from random_edits import random_edit
from safetensors.torch import load_file, save_file

from exporter import registry
from exporter.digests import digest_of_file
from exporter.errors import CompileError, VerificationError
from exporter.reader import takes_images
from exporter.targets.base_weights import BaseWeights
from exporter.targets.merged.export import changed_tensors, export_merged
from exporter.targets.merged.manifest import MergedManifest
from exporter.weight_edit import WeightEdit


def load(folder: Path):
    config = transformers.AutoConfig.from_pretrained(folder)
    family = (
        transformers.AutoModelForImageTextToText
        if takes_images(config)
        else transformers.AutoModelForCausalLM
    )
    return family.from_pretrained(folder, dtype="auto").eval()


def logits(model, family: str) -> torch.Tensor:
    with torch.no_grad():
        return model(**tiny.prompt(family, 1)).logits


@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_it_computes_what_base_and_adapter_compute(family, tmp_path):
    model = tiny.build(family)
    model.save_pretrained(tmp_path / "base", max_shard_size="40KB")
    edit = random_edit(tmp_path / "base", model, vision=True)
    (tmp_path / "edit").mkdir()
    edit.save(tmp_path / "edit")
    merged = load(export_merged(tmp_path / "base", WeightEdit.load(tmp_path / "edit"), tmp_path / "merged"))
    base = load(tmp_path / "base")
    plain = logits(base, family)
    wanted = logits(PeftModel.from_pretrained(base, str(tmp_path / "edit")).eval(), family)
    assert (wanted - plain).abs().max() > 1e-2
    assert torch.allclose(logits(merged, family), wanted, atol=1e-4 * float(wanted.abs().max()))


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    """A base in several shards, and an edit of its first block."""
    home = tmp_path_factory.mktemp("merged")
    model = tiny.build("llama").to(torch.bfloat16)
    model.save_pretrained(home / "base", max_shard_size="20KB")
    (home / "base" / "tokenizer_config.json").write_text("{}")
    edit = random_edit(home / "base", model)
    first = {name: one for name, one in edit.tensors.items() if "layers.0." in name}
    return home / "base", replace(edit, tensors=first)


def test_shards_that_the_edit_does_not_touch_are_linked(bed, tmp_path):
    base, edit = bed
    out = export_merged(base, edit, tmp_path / "merged")
    shards = BaseWeights.read(base).shards
    linked = [shard for shard in shards if (out / shard).samefile(base / shard)]
    assert 0 < len(linked) < len(shards)
    manifest = MergedManifest.load(out)
    manifest.check_files(out)
    assert manifest.changed == len(edit.tensors) // 2
    assert manifest.edit == edit.sha256
    assert manifest.fingerprint == BaseWeights.read(out).fingerprint() != edit.base.fingerprint


def test_a_stored_dtype_stays_and_is_rounded_once(bed, tmp_path):
    base, edit = bed
    before = load(base).state_dict()
    after = load(export_merged(base, edit, tmp_path / "merged")).state_dict()
    name = "model.layers.0.mlp.up_proj.weight"
    key = "base_model.model.model.layers.0.mlp.up_proj.lora_{}.weight"
    change = 7 / 3 * (edit.tensors[key.format("B")] @ edit.tensors[key.format("A")])
    assert torch.equal(after[name], (before[name].float() + change).to(torch.bfloat16))
    assert {one.dtype for one in after.values()} == {torch.bfloat16}
    assert torch.equal(after["lm_head.weight"], before["lm_head.weight"])


def test_another_base_is_refused(bed, tmp_path):
    _, edit = bed
    other = tmp_path / "other"
    tiny.build("llama", seed=5).save_pretrained(other)
    with pytest.raises(CompileError, match="another model"):
        export_merged(other, edit, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def lost(edit: WeightEdit) -> WeightEdit:
    return replace(edit, tensors=dict(list(edit.tensors.items())[1:]))


def elsewhere(edit: WeightEdit) -> WeightEdit:
    return replace(
        edit, tensors={name.replace("layers.0", "layers.99"): one for name, one in edit.tensors.items()}
    )


def turned(edit: WeightEdit) -> WeightEdit:
    return replace(edit, tensors={name: torch.zeros(5, 5) for name in edit.tensors})


def dora(edit: WeightEdit) -> WeightEdit:
    return replace(edit, config={**edit.config, "use_dora": True})


def fewer_layers(edit: WeightEdit) -> WeightEdit:
    return replace(edit, config={**edit.config, "layers_to_transform": [0]})


def after_a_word(edit: WeightEdit) -> WeightEdit:
    return replace(edit, config={**edit.config, "alora_invocation_tokens": [5]})


def more_than_lora(edit: WeightEdit) -> WeightEdit:
    return replace(edit, tensors={**edit.tensors, "base_model.model.lm_head.weight": torch.zeros(2, 2)})


def infinite(edit: WeightEdit) -> WeightEdit:
    return replace(edit, tensors={name: one * 1e30 for name, one in edit.tensors.items()})


@pytest.mark.parametrize(
    "change",
    [lost, elsewhere, turned, dora, fewer_layers, after_a_word, more_than_lora, infinite],
    ids=lambda one: one.__name__,
)
def test_an_edit_that_the_weights_cannot_hold_is_refused(bed, change, tmp_path):
    base, edit = bed
    with pytest.raises(CompileError):
        export_merged(base, change(edit), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("damage", ["byte", "removed", "manifest", "key"])
def test_an_edit_that_was_changed_is_not_read(bed, damage, tmp_path):
    _, edit = bed
    edit.save(tmp_path)
    assert WeightEdit.load(tmp_path).sha256 == edit.sha256
    path, manifest = tmp_path / "adapter_model.safetensors", tmp_path / "weight_edit.json"
    if damage == "byte":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    elif damage == "removed":
        path.unlink()
    else:
        told = json.loads(manifest.read_text())
        if damage == "manifest":
            del told["files"]["adapter_model.safetensors"]
        else:
            told["method"] = 3
        manifest.write_text(json.dumps(told))
    with pytest.raises(VerificationError):
        WeightEdit.load(tmp_path)
    shutil.rmtree(tmp_path)


def zeroed(edit: WeightEdit) -> WeightEdit:
    return replace(edit, tensors={name: torch.zeros_like(one) for name, one in edit.tensors.items()})


def lost_in_rounding(edit: WeightEdit) -> WeightEdit:
    return replace(edit, tensors={name: one * 1e-12 for name, one in edit.tensors.items()})


def without_tensors(edit: WeightEdit) -> WeightEdit:
    return replace(edit, tensors={})


@pytest.mark.parametrize("change", [zeroed, lost_in_rounding, without_tensors], ids=lambda one: one.__name__)
def test_an_edit_that_changes_nothing_is_refused(bed, change, tmp_path):
    """The merged checkpoint would be the base, under the name of one that has forgotten."""
    base, edit = bed
    with pytest.raises(CompileError, match="changes no weight"):
        export_merged(base, change(edit), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_the_same_weights_under_another_architecture_are_refused(bed, tmp_path):
    base, edit = bed
    other = shutil.copytree(base, tmp_path / "other")
    path = other / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "architectures": ["MistralForCausalLM"]}))
    with pytest.raises(CompileError, match="MistralForCausalLM"):
        export_merged(other, edit, tmp_path / "merged")


def test_weights_swapped_for_the_bases_are_found(bed, tmp_path):
    base, edit = bed
    out = export_merged(base, edit, tmp_path / "merged")
    assert changed_tensors(base, out) == MergedManifest.load(out).changed
    manifest = json.loads((out / "merged.json").read_text())
    for shard in BaseWeights.read(base).shards:
        (out / shard).unlink()
        shutil.copy(base / shard, out / shard)
        manifest["files"][shard] = digest_of_file(out / shard)
    (out / "merged.json").write_text(json.dumps(manifest))
    with pytest.raises(VerificationError, match="fingerprint"):
        registry.target("merged").section(out)
    assert changed_tensors(base, out) == 0


def test_a_base_that_was_saved_without_its_head_has_shorter_names(tmp_path):
    """As GPT-2 is on the Hub: ``h.0.attn.c_attn.weight``."""
    model = tiny.build("gpt2")
    model.save_pretrained(tmp_path / "base")
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    bare = {
        name.removeprefix("transformer."): one for name, one in tensors.items() if name != "lm_head.weight"
    }
    save_file(bare, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    edit = random_edit(tmp_path / "base", load(tmp_path / "base"))
    edit.save(tmp_path / "edit") if (tmp_path / "edit").mkdir() is None else None
    merged = load(export_merged(tmp_path / "base", edit, tmp_path / "merged"))
    tuned = PeftModel.from_pretrained(load(tmp_path / "base"), str(tmp_path / "edit")).eval()
    wanted = logits(tuned, "gpt2")
    assert torch.allclose(logits(merged, "gpt2"), wanted, atol=1e-4 * float(wanted.abs().max()))
