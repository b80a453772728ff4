"""The model that is fitted is the model on disk: what Transformers would fill in, drop or add in silence is refused by name."""

import json
import shutil
from pathlib import Path

import pytest
import tiny
import tiny_run
import torch
import transformers
from safetensors.torch import load_file, save_file

from exporter import usable_base
from exporter.errors import CompileError, InputErrors
from exporter.host import ModelHost
from exporter.targets.checkpoint import compile_checkpoint
from exporter.usable_base import why_unusable

WEIGHTS = "model.safetensors"


@pytest.fixture
def base(tmp_path):
    folder = tmp_path / "base"
    tiny_run.write_base(folder)
    return folder


def rewrite(base, change):
    """The base with other tensors."""
    tensors = load_file(base / WEIGHTS)
    change(tensors)
    save_file({name: one.contiguous() for name, one in tensors.items()}, base / WEIGHTS, {"format": "pt"})


def settings(base, **values):
    path = base / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refusal(base):
    with pytest.raises(InputErrors) as caught:
        ModelHost.load(base)
    (problem,) = caught.value.problems
    return problem


def test_a_whole_base_loads(base):
    assert not why_unusable(base)
    assert ModelHost.load(base).architecture == "LlamaForCausalLM"


BLOCK = "model.layers.2.mlp.up_proj.weight"
DROPPED = {
    "a missing tensor": (lambda t: t.pop(BLOCK), BLOCK),
    "a missing head": (lambda t: t.pop("lm_head.weight"), "lm_head.weight"),
    "another shape": (lambda t: t.update({BLOCK: t[BLOCK][:-1]}), BLOCK),
    "a bias the class has not": (lambda t: t.update({"model.layers.1.self_attn.q_proj.bias": torch.ones(32)}), "q_proj.bias"),
    "a norm's bias": (lambda t: t.update({"model.norm.bias": torch.ones(32)}), "model.norm.bias"),
    "a block too many": (lambda t: t.update({"model.layers.4.input_layernorm.weight": torch.ones(32)}), "layers.4"),
    "an adapter within": (lambda t: t.update({"model.layers.1.self_attn.q_proj.lora_A.weight": torch.ones(2, 32)}), "lora_A"),
    "scales of a quantiser": (lambda t: t.update({BLOCK + "_scale": torch.ones(1)}), "up_proj.weight_scale"),
}  # fmt: skip


@pytest.mark.parametrize("change", DROPPED)
def test_weights_that_do_not_fill_the_model_are_refused_by_name(base, change):
    spoil, name = DROPPED[change]
    rewrite(base, spoil)
    assert name in refusal(base)


HARMLESS = {
    "old rotary buffers": {"model.layers.1.self_attn.rotary_emb.inv_freq": torch.ones(4)},
    "a value head": {"v_head.summary.weight": torch.ones(1, 32)},
}


@pytest.mark.parametrize("extra", HARMLESS)
def test_tensors_that_change_nothing_are_no_reason(base, extra):
    rewrite(base, lambda tensors: tensors.update(HARMLESS[extra]))
    assert ModelHost.load(base)


def test_a_tied_head_is_not_missing_nor_unused(base):
    settings(base, tie_word_embeddings=True)
    assert ModelHost.load(base)  # with a head of its own in the file, as many tied models have
    rewrite(base, lambda tensors: tensors.pop("lm_head.weight"))
    assert ModelHost.load(base)


@pytest.mark.parametrize("model_type", [*tiny.CONFIGS])
def test_every_family_loads_from_what_it_saves(model_type, tmp_path):
    model = tiny.build(model_type)
    model.save_pretrained(tmp_path)
    host = ModelHost.load(tmp_path, processor=object())
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), host.model.state_dict().values(), strict=True)
    )


def test_the_names_of_older_layouts_are_no_reason(tmp_path):
    """As the first GPT-2 and LLaVA checkpoints have them."""
    tiny.build("gpt2").save_pretrained(tmp_path)
    tensors = {name.removeprefix("transformer."): one for name, one in load_file(tmp_path / WEIGHTS).items()}
    tensors |= {"h.0.attn.bias": torch.ones(1, 1, 4, 4), "h.0.attn.masked_bias": torch.ones(1)}
    save_file(tensors, tmp_path / WEIGHTS, {"format": "pt"})
    assert ModelHost.load(tmp_path, processor=object())


@pytest.mark.parametrize("lost", ["vision_tower", "language_model.model.layers.3", "multi_modal_projector"])
def test_of_an_older_layout_too_everything_must_be_there(lost, tmp_path):
    tiny.build("llava").save_pretrained(tmp_path)
    old = load_file(tmp_path / WEIGHTS)  # Transformers still writes it so
    assert "language_model.model.layers.3.input_layernorm.weight" in old
    assert ModelHost.load(tmp_path, processor=object())
    save_file(
        {name: one for name, one in old.items() if not name.startswith(lost)},
        tmp_path / WEIGHTS,
        {"format": "pt"},
    )
    with pytest.raises(InputErrors, match="missing"):
        ModelHost.load(tmp_path, processor=object())


QUANTISED = {
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "older bitsandbytes": {"load_in_8bit": True},
    "gptq": {"quant_method": "gptq", "bits": 4},
    "awq": {"quant_method": "awq", "bits": 4},
    "torchao": {"quant_method": "torchao", "quant_type": "int8_weight_only"},
    "fp8": {"quant_method": "fp8"},
    "unknown": {"quant_method": "of tomorrow"},
    "empty": {},
}


@pytest.mark.parametrize("method", QUANTISED)
@pytest.mark.parametrize("place", ["model", "text"])
def test_packed_weights_are_refused_before_anything_is_loaded(base, tmp_path, method, place, monkeypatch):
    monkeypatch.setattr(usable_base, "find_spec", lambda name: None)
    told = {"quantization_config": QUANTISED[method]}
    settings(base, **(told if place == "model" else {"text_config": told}))
    (reason,) = why_unusable(base)
    assert "quantised" in reason
    if method in ("bitsandbytes", "gptq", "awq", "torchao"):
        assert "pip install" in reason
    with pytest.raises(CompileError, match="quantised"):
        compile_checkpoint(base, tiny_run.always_on(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_package_that_is_missing_is_named_with_the_line_that_installs_it(base, monkeypatch):
    def lacking(*args, **kwargs):
        raise ImportError("This needs lzmatic: `pip install lzmatic`")

    for loader in ("AutoModelForCausalLM", "AutoTokenizer"):
        with monkeypatch.context() as patch:
            patch.setattr(getattr(transformers, loader), "from_pretrained", lacking)
            assert "pip install lzmatic" in refusal(base)


def an_adapter(folder):
    folder.mkdir(exist_ok=True)
    told = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    rows = {
        f"base_model.model.model.layers.{i}.self_attn.q_proj.lora_{side}.weight": torch.ones(shape)
        for i in range(4)
        for side, shape in (("A", (2, 32)), ("B", (32, 2)))
    }
    save_file(rows, folder / "adapter_model.safetensors")


def test_an_adapter_beside_the_weights_is_refused_wherever_a_base_is_read(base, tmp_path):
    an_adapter(base)
    (reason,) = why_unusable(base)
    assert "base.adapters" in reason
    assert "base.adapters" in refusal(base)
    with pytest.raises(CompileError, match=r"base\.adapters"):
        compile_checkpoint(base, tiny_run.always_on(), tmp_path / "out")


def test_a_folder_that_is_an_adapter_alone_says_how_to_name_it(tmp_path):
    an_adapter(tmp_path)
    (reason,) = why_unusable(tmp_path)
    assert "base.adapters" in reason and "base.path" in reason


def linked(base):
    (base / "config.json").rename(base.parent / "outside.json")
    (base / "config.json").symlink_to(base.parent / "outside.json")


BROKEN = {
    "no weights": (lambda base: (base / WEIGHTS).unlink(), "neither"),
    "GGUF alone": (lambda base: (base / WEIGHTS).rename(base / "model.gguf"), "GGUF"),
    "another name": (lambda base: (base / WEIGHTS).rename(base / "model.fp16.safetensors"), "other names"),
    "a lost shard": (lambda base: (base / WEIGHTS).rename(base / "model.safetensors.index.json"), "index"),
    "a class without a head": (lambda base: settings(base, architectures=["LlamaModel"]), "LlamaModel"),
    "a classifier": (
        lambda base: settings(base, architectures=["LlamaForSequenceClassification"]),
        "Classification",
    ),
    "no class": (lambda base: settings(base, architectures=None), "architectures"),
    "weights elsewhere": (
        lambda base: settings(base, transformers_weights="other.safetensors"),
        "transformers_weights",
    ),
    "a tower that is quantised": (
        lambda base: settings(base, vision_config={"quantization_config": {"quant_method": "fp8"}}),
        "fp8",
    ),
    "a config by a link": (linked, "link"),
    "no JSON": (lambda base: (base / "config.json").write_text("{"), "config.json"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_what_can_never_be_compiled_is_told_without_loading(base, fault, monkeypatch):
    spoil, word = BROKEN[fault]
    spoil(base)
    monkeypatch.setattr(torch, "load", None)
    reasons = why_unusable(base)
    assert any(word in reason for reason in reasons), reasons


def test_everything_is_told_at_once(base):
    an_adapter(base)
    settings(base, quantization_config={"quant_method": "gptq"}, architectures=["LlamaModel"])
    Path(base / WEIGHTS).unlink()
    assert len(why_unusable(base)) == 4


def test_a_sharded_base_is_held_to_its_index(base):
    host = ModelHost.load(base)
    shutil.rmtree(base)
    host.model.save_pretrained(base, max_shard_size="20KB")
    assert len(list(base.glob("*.safetensors"))) > 1
    assert not why_unusable(base)
    shard = sorted(base.glob("*.safetensors"))[1]
    shard.unlink()
    (reason,) = why_unusable(base)
    assert shard.name in reason


def test_a_head_of_another_task_is_refused_by_its_name(base):
    settings(base, architectures=["LlamaForSequenceClassification"])
    assert "LlamaForSequenceClassification" in refusal(base)


def test_weights_that_config_takes_from_another_file_are_not_compiled(base, tmp_path):
    """The control: Transformers does load that file."""
    other = tmp_path / "other"
    tiny_run.write_base(other, seed=1)
    shutil.copyfile(other / WEIGHTS, base / "other.safetensors")
    mine = ModelHost.load(base).model.state_dict()["lm_head.weight"].clone()
    settings(base, transformers_weights="other.safetensors")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(base)
    assert not torch.equal(loaded.lm_head.weight, mine)
    with pytest.raises(CompileError, match="transformers_weights"):
        compile_checkpoint(base, tiny_run.always_on(), tmp_path / "out")
