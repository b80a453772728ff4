"""A config.json may leave out what its class has as a default, as that of llava-1.5 does; nothing is concluded from a key not being there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from transformers import AutoConfig, GPT2Config, LlavaConfig

from exporter.errors import CompileError, InputErrors
from exporter.reader import loaded_config
from exporter.targets.base_weights import BaseWeights
from exporter.targets.onnx import layouts
from exporter.targets.onnx.manifest import CacheSizes, GraphFacts, ImageInput, Variant
from exporter.targets.stock.decoder import read_decoder
from exporter.targets.stock.export import _deeper
from exporter.targets.transformers_loads import auto_class

LLAVA = {
    "architectures": ["SteeredLlavaForConditionalGeneration"],
    "model_type": "steered_llava",
    "image_token_index": 32000,
    "text_config": {
        "_name_or_path": "lmsys/vicuna-7b-v1.5",
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "rms_norm_eps": 1e-05,
        "vocab_size": 32064,
    },
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "image_size": 336,
        "model_type": "clip_vision_model",
        "patch_size": 14,
    },
    "steering": {},
}
"""What matters of llava-hf/llava-1.5-7b-hf's: no sizes of its decoder."""
GRAPHS = {
    "fp32": Variant(decoder="onnx/d.onnx", vision="onnx/v.onnx", merge="onnx/e.onnx", cache_dtype="float32")
}


def facts(kind: str, layers: int, sees: bool) -> GraphFacts:
    """What is said of graphs of an unsteered export whose cache has so many layers."""
    image = ImageInput(token_id=32000, tokens=None, preprocessing=None)
    return GraphFacts(
        format="steerbake-onnx/2",
        steered=False,
        steering=None,
        base={},
        license="apache-2.0",
        model_type=kind,
        gates=(),
        gate_state="kv",
        cache=CacheSizes(layers=layers, kv_heads=32, head_dim=128),
        position_rows=1,
        image=image if sees else None,
        turns=None,
        bos_token=None,
        pad_id=0,
        end_ids=(2,),
    )


def laid_out(folder: Path, layout: str, config: dict[str, Any], of_graphs: GraphFacts) -> Path:
    out = folder / "out"
    out.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    layouts.write(layout, folder, out, of_graphs, GRAPHS)
    return out


def test_genai_gets_the_sizes_that_llava_leaves_out(tmp_path):
    out = laid_out(tmp_path, "genai", LLAVA, facts("llava", 33, sees=True))
    model = json.loads((out / "genai_config.json").read_text())["model"]
    assert (model["decoder"]["hidden_size"], model["decoder"]["num_attention_heads"]) == (4096, 32)
    assert (model["context_length"], model["vocab_size"], model["bos_token_id"]) == (4096, 32064, 1)


def test_runtimes_get_a_config_that_says_it_all_and_is_read_as_before(tmp_path):
    out = laid_out(tmp_path, "transformersjs", LLAVA, facts("llava", 33, sees=True))
    config = json.loads((out / "config.json").read_text())
    text = config["text_config"]
    assert (text["num_hidden_layers"], text["num_key_value_heads"], text["hidden_size"]) == (33, 32, 4096)
    assert not {"steering", "_name_or_path"} & (set(config) | set(text))
    assert config["vision_config"]["patch_size"] == 14
    plain = {key: value for key, value in LLAVA.items() if key != "steering"} | {"model_type": "llava"}
    before, after = loaded_config(plain), AutoConfig.from_pretrained(out)
    assert isinstance(after, LlavaConfig)
    assert after.text_config.num_hidden_layers == before.text_config.num_hidden_layers + 1
    after.text_config.num_hidden_layers -= 1
    same = ("rope_parameters", "rms_norm_eps", "hidden_size", "vocab_size", "head_dim")
    assert all(getattr(after.text_config, n) == getattr(before.text_config, n) for n in same)


def test_names_of_a_class_s_own_count_layers_too(tmp_path):
    config = {"model_type": "steered_gpt2", "architectures": ["SteeredGPT2LMHeadModel"], "n_embd": 64}
    out = laid_out(tmp_path, "genai", config, facts("gpt2", 13, sees=False))
    loaded = AutoConfig.from_pretrained(out)
    assert isinstance(loaded, GPT2Config) and loaded.n_layer == 13
    decoder = json.loads((out / "genai_config.json").read_text())["model"]["decoder"]
    assert (decoder["hidden_size"], decoder["num_attention_heads"]) == (64, 12)


def stripped(model: Any, folder: Path, *names: str) -> dict[str, Any]:
    """The config.json of a saved model without some keys, which then have their defaults."""
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    for name in names:
        config.pop(name, None)
    return config


def test_a_window_that_is_a_default_is_seen(tmp_path):
    model = tiny.build("mistral", text={"sliding_window": 4096})
    config = stripped(model, tmp_path, "sliding_window")
    with pytest.raises(CompileError, match="4096 positions"):
        read_decoder(config, BaseWeights.read(tmp_path))
    read_decoder({**config, "sliding_window": None}, BaseWeights.read(tmp_path))


def test_a_stock_layer_counts_layers_that_are_a_default(tmp_path):
    model = tiny.build("llama", text={"num_hidden_layers": 32, "rms_norm_eps": 1e-6})
    config = stripped(
        model, tmp_path, "num_hidden_layers", "num_key_value_heads", "rms_norm_eps", "hidden_act"
    )
    shape = read_decoder({**config, "num_key_value_heads": 2}, BaseWeights.read(tmp_path))
    assert (shape.layers, shape.eps) == (32, 1e-6)
    assert _deeper(config, {3: [object()]})["num_hidden_layers"] == 33


@pytest.mark.parametrize(("config", "auto"), [
    ({"model_type": "llava"}, "AutoModelForImageTextToText"),
    ({"model_type": "gemma3_text", "vision_config": None}, "AutoModelForCausalLM"),
    ({"model_type": "llama", "vision_config": {}}, "AutoModelForCausalLM"),
    ({"model_type": "steered_x", "auto_map": {"AutoModelForCausalLM": "x.X"}}, "AutoModelForCausalLM"),
])  # fmt: skip
def test_the_task_follows_the_model(config, auto, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert auto_class(tmp_path) == auto


def test_what_is_no_config_is_one_sentence():
    with pytest.raises(InputErrors, match="nothing config"):
        loaded_config({"model_type": "nothing"})
    with pytest.raises(InputErrors, match="llama config"):
        loaded_config({"model_type": "llama", "hidden_size": "wide"})
