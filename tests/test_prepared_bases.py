"""Bases as people have them: in ``.bin`` files, or with adapters. One model is written of them, and it is fitted and compiled."""

import json
import logging
import os
import shutil

import peft
import pytest
import tiny
import tiny_run
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from exporter import pipeline, registry
from exporter.adapters import merge
from exporter.bin_weights import convert
from exporter.errors import CompileError, InputErrors
from exporter.host import ModelHost
from exporter.pipeline.run import Run
from exporter.recipe import Recipe
from exporter.targets.base_weights import BaseWeights
from exporter.targets.checkpoint import compile_checkpoint
from exporter.usable_base import why_unusable
from steer_modules.program import SteeringProgram

IDS = torch.arange(8, 20)[None]


@pytest.fixture
def base(tmp_path):
    folder = tmp_path / "base"
    tiny_run.write_base(folder)
    return folder


def as_bin(base, shards=1, legacy=False, change=None):
    """The base with its weights in ``.bin`` files, tied tensors sharing memory as ``torch.save`` leaves them."""
    tensors = AutoModelForCausalLM.from_pretrained(base).state_dict()
    for old in base.glob("model*"):
        old.unlink()
    if change:
        tensors = change(tensors)
    names = sorted(tensors)
    parts = [names[i::shards] for i in range(shards)]
    files = (
        [f"pytorch_model-{i + 1:05d}-of-{shards:05d}.bin" for i in range(shards)]
        if shards > 1
        else ["pytorch_model.bin"]
    )
    for file, part in zip(files, parts, strict=True):
        torch.save(
            {name: tensors[name] for name in part}, base / file, _use_new_zipfile_serialization=not legacy
        )
    if shards > 1:
        named = {name: file for file, part in zip(files, parts, strict=True) for name in part}
        (base / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": named}))


def an_adapter(base, folder, seed=0, family=AutoModelForCausalLM, **values):
    """A LoRA that changes the base's words."""
    model = family.from_pretrained(base)
    config = peft.LoraConfig(
        **{"r": 4, "lora_alpha": 32, "target_modules": ["q_proj", "down_proj"], **values}
    )
    tuned = peft.get_peft_model(model, config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                weight.add_(torch.randn_like(weight) * 0.1)
    tuned.save_pretrained(folder)


def logits_of(base, *adapters):
    model = AutoModelForCausalLM.from_pretrained(base)
    for adapter in adapters:
        model = peft.PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    return tiny.logits(model, input_ids=IDS)


def unsteered(checkpoint):
    """Logits of a compiled checkpoint with its gates off."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, trust_remote_code=True)
    return tiny.logits(model, input_ids=IDS, steering_gate=torch.zeros(1, len(model.steering.pooled_gates)))


# --- .bin files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_bin_files_become_the_same_model(base, tmp_path, shards, legacy, tied):
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": tied}))
    wanted = tiny.logits(AutoModelForCausalLM.from_pretrained(base), input_ids=IDS)
    as_bin(base, shards, legacy)
    assert not why_unusable(base)
    out = tmp_path / "converted"
    out.mkdir()
    convert(base, out)
    assert torch.equal(tiny.logits(ModelHost.load(out).model, input_ids=IDS), wanted)
    assert len(BaseWeights.read(out).shards) == shards
    assert (out / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


class Planted:
    """What an attacker puts into a file: code that runs when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


HOSTILE = {
    "code": lambda tensors, trap: {**tensors, "model.norm.weight": Planted(trap)},
    "a number": lambda tensors, trap: {**tensors, "step": 7},
    "nested": lambda tensors, trap: {"state_dict": tensors},
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("legacy", [False, True])
def test_what_is_no_tensor_is_refused_and_no_code_is_run(base, tmp_path, what, legacy):
    trap = tmp_path / "trap"
    as_bin(base, legacy=legacy, change=lambda tensors: HOSTILE[what](tensors, trap))
    if what == "code":  # the control: unpickled, it would run
        torch.load(base / "pytorch_model.bin", weights_only=False)
        assert trap.is_dir()
        trap.rmdir()
    with pytest.raises(CompileError):
        pipeline.compile(base, steering(tmp_path), tmp_path / "out")
    assert not trap.exists() and not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".base-*"))


def test_damaged_and_missing_shards_are_named(base, tmp_path):
    as_bin(base, 2)
    shard = sorted(base.glob("*.bin"))[1]
    shard.write_bytes(shard.read_bytes()[:200])
    with pytest.raises(CompileError, match=shard.name):
        pipeline.compile(base, steering(tmp_path), tmp_path / "out")
    shard.unlink()
    assert shard.name in why_unusable(base)[0]


def test_an_index_does_not_lead_out_of_the_folder(base, tmp_path):
    as_bin(base, 2)
    index = base / "pytorch_model.bin.index.json"
    told = json.loads(index.read_text())
    shutil.copyfile(base / told["weight_map"]["lm_head.weight"], tmp_path / "outside.bin")
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "../outside.bin"}}))
    assert why_unusable(base)


def steering(tmp_path):
    folder = tmp_path / "steering"
    folder.mkdir(exist_ok=True)
    tiny_run.always_on().save(folder)
    return folder


def test_compiled_by_hand_a_bin_base_is_converted_with_a_warning(base, tmp_path, caplog):
    wanted = logits_of(base)
    as_bin(base)
    with caplog.at_level(logging.WARNING):
        pipeline.compile(base, steering(tmp_path), tmp_path / "out")
    assert ".bin" in caplog.text
    assert torch.equal(unsteered(tmp_path / "out"), wanted)
    assert not list(tmp_path.glob(".base-*"))


# --- adapters -----------------------------------------------------------------------------------------------------


VARIANTS = {
    "plain": {},
    "a head too": {"target_modules": ["q_proj", "lm_head"]},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "whole modules": {"modules_to_save": ["lm_head"]},
    "some layers": {"layers_to_transform": [1, 2]},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_merged_base_says_what_base_and_adapter_say(base, tmp_path, variant):
    an_adapter(base, tmp_path / "adapter", **VARIANTS[variant])
    out = tmp_path / "merged"
    out.mkdir()
    merge(base, [tmp_path / "adapter"], out)
    model = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "adapter")
    )
    wanted = tiny.logits(model, input_ids=IDS)
    assert not torch.allclose(wanted, logits_of(base), atol=0.1)  # the control
    assert torch.allclose(logits_of(out), wanted, atol=1e-3)
    compile_checkpoint(out, tiny_run.always_on(), tmp_path / "checkpoint")
    assert torch.allclose(unsteered(tmp_path / "checkpoint"), wanted, atol=1e-3)


def test_two_adapters_are_merged_and_a_bfloat16_base_stays_one(base, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(base).to(torch.bfloat16)
    model.save_pretrained(base)
    an_adapter(base, tmp_path / "one", seed=1)
    an_adapter(base, tmp_path / "two", seed=2)
    out = tmp_path / "merged"
    out.mkdir()
    merge(base, [tmp_path / "one", tmp_path / "two"], out)
    assert {tensor.dtype for tensor in BaseWeights.read(out).tensors.values()} == {"BF16"}
    wide = tmp_path / "wide"
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).save_pretrained(wide)
    exact = logits_of(wide, tmp_path / "one", tmp_path / "two")
    found = tiny.logits(ModelHost.load(out, dtype=torch.float32).model, input_ids=IDS)
    assert (found - exact).abs().max() < 0.05 * exact.abs().max()


def test_vision_models_take_adapters_too(tmp_path):
    from transformers import AutoModelForImageTextToText

    model = tiny.build("llava")
    model.save_pretrained(tmp_path / "base")
    an_adapter(tmp_path / "base", tmp_path / "adapter", family=AutoModelForImageTextToText)
    out = tmp_path / "merged"
    out.mkdir()
    merge(tmp_path / "base", [tmp_path / "adapter"], out)
    prompt = tiny.prompt("llava", 0)
    tuned = peft.PeftModel.from_pretrained(model, str(tmp_path / "adapter"))
    merged = ModelHost.load(out, processor=object()).model
    assert torch.allclose(tiny.logits(merged, **prompt), tiny.logits(tuned, **prompt), atol=1e-3)


def settings(folder, **values):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def without(folder, part):
    path = folder / "adapter_model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if part not in k}, path)


REFUSED = {
    "no change of weights": (lambda a: settings(a, peft_type="PREFIX_TUNING"), "PREFIX_TUNING"),
    "a classifier's": (lambda a: settings(a, task_type="SEQ_CLS"), "SEQ_CLS"),
    "code to import": (lambda a: settings(a, megatron_config={"a": 1}, megatron_core="os"), "Megatron"),
    "half of it missing": (lambda a: without(a, "layers.2"), "layers.2"),
    "no weights": (lambda a: (a / "adapter_model.safetensors").unlink(), "adapter_model.safetensors"),
    "no settings": (lambda a: (a / "adapter_config.json").unlink(), "adapter_config.json"),
    "more than the base has": (lambda a: settings(a, target_modules=["q_proj"]), "down_proj"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_an_adapter_that_would_not_be_what_it_was_is_refused(base, tmp_path, fault):
    adapter = tmp_path / "adapter"
    an_adapter(base, adapter)
    spoil, word = REFUSED[fault]
    spoil(adapter)
    (tmp_path / "out").mkdir()
    with pytest.raises(InputErrors, match=word):
        merge(base, [adapter], tmp_path / "out")


def test_an_adapter_of_another_model_is_refused(base, tmp_path):
    an_adapter(base, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({k: torch.cat([v, v], -1) if "lora_A" in k else v for k, v in load_file(path).items()}, path)
    (tmp_path / "out").mkdir()
    with pytest.raises(InputErrors, match="size mismatch"):
        merge(base, [tmp_path / "adapter"], tmp_path / "out")


def tie(base):
    """Makes the head of the base its embeddings."""
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    tensors = load_file(base / "model.safetensors")
    tensors.pop("lm_head.weight")
    save_file(tensors, base / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
def test_half_of_a_tied_weight_cannot_be_changed(base, tmp_path, module):
    tie(base)
    an_adapter(base, tmp_path / "adapter", target_modules=["q_proj", module])
    (tmp_path / "out").mkdir()
    with pytest.raises(CompileError, match="embeddings"):
        merge(base, [tmp_path / "adapter"], tmp_path / "out")


def test_a_head_that_an_adapter_parts_from_the_embeddings_is_no_longer_tied(base, tmp_path):
    tie(base)
    an_adapter(base, tmp_path / "adapter", modules_to_save=["lm_head"])
    out = tmp_path / "out"
    out.mkdir()
    merge(base, [tmp_path / "adapter"], out)
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    assert torch.allclose(logits_of(out), logits_of(base, tmp_path / "adapter"), atol=1e-3)


# --- whole runs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A recipe of the quick method; says its base."""
    monkeypatch.setattr(registry, "METHODS", {"quick": "tiny_run:Quick"})
    path = tiny_run.write_recipe(tmp_path)
    path.write_text(
        path.read_text().replace("{default: keyed, compare: [r_muse]}", "{default: quick, compare: []}")
    )
    return path


def test_a_run_on_a_bin_base_fits_and_compiles_the_same_model(asked, tmp_path, caplog):
    wanted = logits_of(tmp_path / "base")
    as_bin(tmp_path / "base")
    with caplog.at_level(logging.WARNING):
        pipeline.run(Recipe.load(asked), tmp_path / "out", progress=False)
    assert "safetensors" in caplog.text
    assert torch.equal(unsteered(tmp_path / "out" / "checkpoint"), wanted)


def test_a_run_with_adapters_fits_and_compiles_the_merged_model_and_keeps_it(asked, tmp_path):
    an_adapter(tmp_path / "base", tmp_path / "adapter")
    asked.write_text(asked.read_text().replace("path: base,", "path: base, adapters: [adapter],"))
    out = tmp_path / "out"
    report = pipeline.run(Recipe.load(asked), out, progress=False)
    wanted = logits_of(tmp_path / "base", tmp_path / "adapter")
    assert torch.allclose(unsteered(out / "checkpoint"), wanted, atol=1e-3)
    assert report["recipe"]["base"]["adapters"] == ["adapter"]
    work = Run(Recipe.load(asked), out)
    before = (work.base / "model.safetensors").stat().st_mtime_ns
    assert (Run(Recipe.load(asked), out).base / "model.safetensors").stat().st_mtime_ns == before
    assert len(json.loads((out / ".work" / "base" / "merged.json").read_text())["digests"]["adapters"]) == 1
    assert torch.allclose(tiny.logits(work.host.model, input_ids=IDS), wanted, atol=1e-3)


def test_a_fitted_program_names_its_base_and_fits_no_other(asked, tmp_path):
    out = tmp_path / "out"
    pipeline.fit(Recipe.load(asked), out, progress=False)
    program = SteeringProgram.load(out / "steering" / "quick")
    assert program.base.fingerprint == BaseWeights.read(tmp_path / "base").fingerprint()
    other = tmp_path / "other"
    tiny_run.write_base(other, seed=1)
    with pytest.raises(CompileError, match="fingerprint"):
        pipeline.compile(other, out / "steering" / "quick", tmp_path / "checkpoint")
    pipeline.compile(tmp_path / "base", out / "steering" / "quick", tmp_path / "checkpoint")


def test_a_base_that_changes_between_fit_and_compile_is_refused(asked, tmp_path):
    work = Run(Recipe.load(asked), tmp_path / "out", progress=False)
    work.fit("quick")
    tiny_run.write_base(tmp_path / "base", seed=1)
    with pytest.raises(CompileError, match="fingerprint"):
        work.compile("quick")


def test_the_dtype_of_a_run_is_no_part_of_the_fingerprint(asked, tmp_path):
    AutoModelForCausalLM.from_pretrained(tmp_path / "base").to(torch.bfloat16).save_pretrained(
        tmp_path / "base"
    )
    pipeline.run(Recipe.load(asked), tmp_path / "out", progress=False)  # in float32
    assert (tmp_path / "out" / "checkpoint").is_dir()
