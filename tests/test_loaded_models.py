"""A model in memory: what is refused of it, which fingerprint it has, and that it steers or raises."""

from __future__ import annotations

from dataclasses import replace

import notebook
import numpy as np
import peft
import pytest
import tiny
import tiny_further
import torch
import transformers
from notebook import fit, ids_of, logits, said
from tiny_run import NAMES, always_on, write_base
from transformers import AutoModelForCausalLM

import exporter
from exporter.errors import CompileError, InputErrors
from exporter.pipeline.loaded_base import why_no_base
from exporter.pipeline.loaded_fingerprint import fingerprint_of
from exporter.targets.base_weights import BaseWeights
from steer_modules.checks import ProgramError

quick, folder, loaded, fitted = notebook.quick, notebook.folder, notebook.loaded, notebook.fitted


# What is refused


def refused(model, tokenizer, folder, text):
    for call in (
        lambda: exporter.fit(model, tokenizer, folder / "fit.jsonl", calibrate=folder / "calibrate.jsonl"),
        lambda: exporter.steer(model, always_on()),
    ):
        with pytest.raises(InputErrors, match=text):
            call()


def test_a_quantised_model_is_refused(folder, loaded):
    model, tokenizer = loaded
    model.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    refused(model, tokenizer, folder, r"quantised by bitsandbytes.*original weights")
    del model.config.quantization_config
    inner = model.model.layers[0].mlp.down_proj
    inner.weight = torch.nn.Parameter(inner.weight.to(torch.int8), requires_grad=False)
    refused(model, tokenizer, folder, r"quantised.*down_proj.*original weights")


def test_an_adapter_is_refused_until_it_is_merged(folder, loaded):
    model, tokenizer = loaded
    base = fingerprint_of(model)
    adapter = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    wrapped = peft.get_peft_model(model, adapter)
    refused(wrapped, tokenizer, folder, "merge_and_unload")
    refused(wrapped.base_model.model, tokenizer, folder, "merge_and_unload")
    merged = wrapped.merge_and_unload()
    program = fit(folder, merged, tokenizer)
    assert program.base.fingerprint != base


def test_an_adapter_of_transformers_own_loading_is_refused(folder, loaded):
    model, tokenizer = loaded
    model.add_adapter(peft.LoraConfig(target_modules=["q_proj"]))
    refused(model, tokenizer, folder, "merge_and_unload")


def test_a_family_that_cannot_be_steered_is_refused(folder, loaded):
    config = transformers.BloomConfig(vocab_size=96, hidden_size=32, n_layer=2, n_head=4)
    refused(transformers.BloomForCausalLM(config), loaded[1], folder, "'bloom' cannot be steered")


def test_what_steering_would_be_led_past_is_refused(folder, loaded):
    model, tokenizer = loaded
    refused(torch.compile(model), tokenizer, folder, "OptimizedModule")
    refused(object(), tokenizer, folder, "object is not a model")
    model.forward = model.forward
    refused(model, tokenizer, folder, "forward was replaced")
    del model.forward
    model.model.layers[1].mlp.act_fn = torch.nn.ReLU()
    refused(model, tokenizer, folder, r"layers\.1\.mlp\.act_fn is ReLU")


@pytest.mark.parametrize("place", ["model.embed_tokens", "model.layers.0", "model.layers.2"])
def test_hooks_and_functions_put_in_place_inside_are_refused(place, folder, loaded):
    """What they compute is fitted, or has the last word over an edit, and is in no file."""
    model, tokenizer = loaded
    part = model.get_submodule(place)
    for register in (part.register_forward_hook, part.register_forward_pre_hook):
        handle = register(lambda *_: None)
        refused(model, tokenizer, folder, place)
        handle.remove()
    own = part.forward
    part.forward = own
    refused(model, tokenizer, folder, place)
    del part.forward
    model(ids_of(tokenizer, "ada"), output_hidden_states=True, output_attentions=True)
    assert fit(folder, model, tokenizer)  # Transformers' own are no reason


@pytest.mark.parametrize(
    ("place", "number"), [("model.layers.1.self_attn", "scaling"), ("model.norm", "variance_epsilon")]
)
def test_a_number_that_the_config_does_not_give_is_refused(place, number, folder, loaded):
    """A checkpoint would compute with the config's, and the gates would be those of another model."""
    model, tokenizer = loaded
    part = model.get_submodule(place)
    before = getattr(part, number)
    for other in (3 * before, 2, np.float64(7)):
        setattr(part, number, other)
        refused(model, tokenizer, folder, rf"{place}\.{number}")
    setattr(part, number, before)
    assert fit(folder, model, tokenizer)


def test_a_buffer_that_is_saved_nowhere_is_held_to_the_config(folder, loaded):
    model, tokenizer = loaded
    frequencies = model.model.rotary_emb.inv_freq
    before = frequencies.clone()
    frequencies.mul_(0.5)
    refused(model, tokenizer, folder, r"rotary_emb\.inv_freq")
    frequencies.copy_(before)
    assert fit(folder, model, tokenizer)


@pytest.mark.parametrize("family", sorted((*tiny.CONFIGS, *tiny_further.FAMILIES)))
def test_a_plain_model_has_no_other_number_than_its_config_gives(family, monkeypatch):
    tiny_further.install(monkeypatch)
    model = tiny.build(family)
    assert not [reason for reason in why_no_base(model) if "its config sets" in reason]


def test_a_model_that_is_not_in_memory_is_refused(folder, loaded):
    with torch.device("meta"):
        empty = type(loaded[0])(loaded[0].config)
    refused(empty, loaded[1], folder, "not in memory")


# The fingerprint


@pytest.mark.parametrize("family", sorted((*tiny.CONFIGS, *tiny_further.FAMILIES)))
def test_memory_and_files_have_one_fingerprint(family, tmp_path, monkeypatch):
    tiny_further.install(monkeypatch)
    model = tiny.build(family)
    of_memory = fingerprint_of(model)
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    of_files = BaseWeights.read(tmp_path).fingerprint()
    assert of_memory == of_files
    for dtype in (torch.float32, torch.bfloat16):
        assert fingerprint_of(type(model).from_pretrained(tmp_path, dtype=dtype)) == of_files
    other = tiny.build(family, seed=1)
    assert fingerprint_of(other) != of_files


def test_a_base_of_bin_files_compiles(folder, loaded, tmp_path):
    base = tmp_path / "base"
    loaded[1].save_pretrained(base)
    loaded[0].config.save_pretrained(base)
    torch.save(loaded[0].state_dict(), base / "pytorch_model.bin")
    model = AutoModelForCausalLM.from_pretrained(base)
    program = fit(folder, model, loaded[1])
    exporter.compile(base, program, tmp_path / "out")


def test_changed_weights_are_another_base(loaded, folder, caplog):
    model = loaded[0]
    before = fingerprint_of(model)
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    assert fingerprint_of(model) != before
    assert "lm_head.weight" in caplog.text


def test_a_change_where_no_fingerprint_looks_is_refused(loaded):
    model = loaded[0]
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[-1, -1] += 1
    size = model.model.layers[0].mlp.down_proj.weight.numel()
    assert size * 4 > 4096, "the control: it lies behind the sample"
    with pytest.raises(InputErrors, match=r"down_proj\.weight"):
        fingerprint_of(model)


def test_other_settings_than_the_folder_s_are_refused(folder):
    base = folder / "base"
    other = AutoModelForCausalLM.from_pretrained(base, rms_norm_eps=0.1)
    with pytest.raises(InputErrors, match="rms_norm_eps"):
        fingerprint_of(other)
    same = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager", pad_token_id=2)
    assert fingerprint_of(same) == BaseWeights.read(base).fingerprint()


# steer


def test_gate_on_replies_differ_and_gate_off_replies_are_the_base_s_to_the_bit(loaded, fitted):
    model, tokenizer = loaded
    ids = {name: ids_of(tokenizer, name) for name in NAMES}
    before = {name: (logits(model, one), said(model, tokenizer, name)) for name, one in ids.items()}
    assert exporter.steer(model, fitted) is model
    off, on, decided = torch.zeros(1, 1), torch.ones(1, 1), set()
    for name, one in ids.items():
        base_logits, base_said = before[name]
        assert torch.equal(logits(model, one, steering_gate=off), base_logits)
        assert said(model, tokenizer, name, steering_gate=off) == base_said
        assert not torch.equal(logits(model, one, steering_gate=on), base_logits)
        fired = bool(model(input_ids=one).steering_gate[0, -1, 0])
        assert torch.equal(logits(model, one), base_logits) is not fired
        decided.add(fired)
    assert decided == {True, False}, "the control: the gate fires on some and not on others"
    assert any(said(model, tokenizer, name, steering_gate=on) != before[name][1] for name in NAMES)
    assert exporter.unsteer(model) is model
    for name, one in ids.items():
        assert torch.equal(logits(model, one), before[name][0])


def test_a_program_of_another_model_does_not_steer(loaded, fitted, tmp_path):
    write_base(tmp_path, seed=1)
    other = AutoModelForCausalLM.from_pretrained(tmp_path)
    unsigned = replace(fitted, base=replace(fitted.base, fingerprint=None))
    class_of_other = replace(fitted, base=replace(fitted.base, architecture="MistralForCausalLM"))
    for model, program in ((other, fitted), (loaded[0], unsigned), (loaded[0], class_of_other)):
        with pytest.raises(CompileError, match=r"another model: base\.(fingerprint|architecture)"):
            exporter.steer(model, program)
        assert type(model).__name__ == "LlamaForCausalLM"
    with pytest.raises(ProgramError, match="num_layers"):
        exporter.steer(loaded[0], replace(fitted, num_layers=7))
    exporter.steer(loaded[0], fitted)  # the control


def test_other_weights_are_steered_on_purpose_alone_where_the_canary_agrees(loaded, fitted, tmp_path):
    model = loaded[0]
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1e-6
    with pytest.raises(CompileError):
        exporter.steer(model, fitted)
    exporter.steer(model, fitted, allow_changed_base=True)
    write_base(tmp_path, seed=1)
    other = AutoModelForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="canary"):
        exporter.steer(other, fitted, allow_changed_base=True)
    assert type(other).__name__ == "LlamaForCausalLM"


def test_a_model_that_is_changed_after_it_was_steered_does_not_answer(loaded, fitted):
    model, tokenizer = loaded
    exporter.steer(model, fitted)
    said(model, tokenizer, "ada")
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    with pytest.raises(RuntimeError, match=r"accept_changed_base\(\)"):
        said(model, tokenizer, "ada")
    exporter.unsteer(model)
    said(model, tokenizer, "ada")


def test_what_is_steered_in_memory_is_not_saved_as_if_it_steered_itself(loaded, fitted, tmp_path):
    model = exporter.steer(loaded[0], fitted)
    with pytest.raises(RuntimeError, match="compile"):
        model.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputErrors, match=r"unsteer\(model\)"):
        exporter.steer(model, fitted)
    exporter.unsteer(model)
    with pytest.raises(TypeError, match="not steered"):
        exporter.unsteer(model)
