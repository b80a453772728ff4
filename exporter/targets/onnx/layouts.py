"""What particular runtimes want beside the graphs."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.atomic import write_json
from exporter.errors import CompileError
from exporter.reader import loaded_config
from exporter.targets.companions import without_places
from exporter.targets.onnx.decoder import GateState
from exporter.targets.onnx.manifest import GraphFacts, ImageInput, Variant
from steer_modules.schema import CONFIG_KEYS

if TYPE_CHECKING:
    from transformers import PretrainedConfig

TRANSFORMERS_JS = (
    "gemma3_text",
    "gpt2",
    "llama",
    "llava",
    "mistral",
    "qwen2",
    "qwen2_5_vl",
    "qwen3",
    "smolvlm",
)
"""Model types transformers.js runs. It knows no internvl, and hands a decoder neither the ``token_type_ids`` of gemma3 nor the
``deepstack_features`` of qwen3_vl."""
GENAI = {
    "gemma3_text": "decoder",
    "gpt2": "decoder",
    "internvl": "gemma3",
    "llama": "llama",
    "llava": "gemma3",
    "mistral": "mistral",
    "qwen2": "qwen2",
    "qwen2_5_vl": "qwen2_5_vl",
    "qwen3": "qwen3",
}
"""Types of onnxruntime-genai by model type. It has none called llava, but runs any three graphs of vision encoder, embedding and decoder
as ``gemma3``, where its caller sets ``pixel_values`` and ``num_image_tokens`` (docs/onnx.md)."""
LAYOUTS: dict[str, Collection[str]] = {"transformersjs": TRANSFORMERS_JS, "genai": GENAI}


def gate_state(layout: str | None, asked: GateState | None, model_type: str) -> GateState:
    """How gates are carried under a layout.

    Raises:
        CompileError: no such layout, or its runtime runs no model of this type or cannot carry gates as asked.
    """
    if layout is None:
        return asked or "io"
    if layout not in LAYOUTS:
        raise CompileError(f"unknown layout {layout!r}; valid layouts: {', '.join(LAYOUTS)}")
    if model_type not in LAYOUTS[layout]:
        raise CompileError(
            f"the runtime of layout {layout} does not support models of type {model_type!r}, only {', '.join(sorted(LAYOUTS[layout]))}; "
            "remove --layout"
        )
    if asked == "io":
        raise CompileError(
            f"the runtime of layout {layout} does not pass further outputs back as inputs, so the gates would be lost; remove "
            "--gate-state, or set it to kv"
        )
    return "kv"


def write(
    layout: str | None,
    checkpoint: Path,
    folder: Path,
    manifest: GraphFacts,
    variants: Mapping[str, Variant],
) -> None:
    """Writes ``config.json``, the stock model's, and the files of the layout."""
    config = _stock_config(checkpoint, manifest)
    loaded = loaded_config(config)
    _fill(config, loaded.to_dict())
    _count_layers(config, manifest)
    if layout == "transformersjs":
        config["transformers.js_config"] = _transformersjs(folder, variants)
        _template_into_tokenizer(folder)
    if layout == "genai":
        write_json(folder / "genai_config.json", _genai(loaded, manifest, variants), indent=2, finite=False)
    write_json(folder / "config.json", config, indent=2, finite=False)


def _stock_config(checkpoint: Path, manifest: GraphFacts) -> dict[str, object]:
    """The base's config."""
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    for key in CONFIG_KEYS:
        config.pop(key, None)
    config = without_places(config)
    config["model_type"] = manifest.model_type
    config["architectures"] = [name.removeprefix("Steered") for name in config["architectures"]]
    return config


def _fill(config: dict[str, Any], defaults: Mapping[str, object]) -> None:
    """Puts in what a config leaves out, for runtimes that do not know the defaults of Transformers' classes."""
    for key, value in defaults.items():
        if isinstance(config.get(key), dict) and isinstance(value, Mapping) and key.endswith("_config"):
            _fill(config[key], value)
        elif value is not None and key != "transformers_version" and not key.startswith("_"):
            config.setdefault(key, value)


def _count_layers(config: dict[str, Any], manifest: GraphFacts) -> None:
    """Runtimes make their cache by the number of layers, so a layer that bears gates counts."""
    if manifest.gate_state == "kv":
        text = config.get("text_config", config)
        text["n_layer" if "n_layer" in text else "num_hidden_layers"] = manifest.cache.layers


def _transformersjs(folder: Path, variants: Mapping[str, Variant]) -> dict[str, object]:
    """``transformers.js_config``: which graphs have their weights beside them, and the dtype of the cache of each variant."""
    graphs = [path for files in variants.values() for path in files.graphs.values()]
    beside = {Path(path).name: 1 for path in graphs if (folder / f"{path}_data").is_file()}
    half = {dtype: "float16" for dtype, files in variants.items() if files.cache_dtype == "float16"}
    return {
        **({"use_external_data_format": beside} if beside else {}),
        **({"kv_cache_dtype": half} if half else {}),
    }


def _template_into_tokenizer(folder: Path) -> None:
    """transformers.js reads the chat template of a text model from tokenizer_config.json alone."""
    template, path = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if template.is_file() and path.is_file():
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings["chat_template"] = template.read_text(encoding="utf-8")
        write_json(path, settings, indent=2, finite=False)


def _genai(
    config: PretrainedConfig, manifest: GraphFacts, variants: Mapping[str, Variant]
) -> dict[str, object]:
    """``genai_config.json``, for the first variant of a model of this loaded config."""
    text = config.get_text_config()
    files = next(iter(variants.values()))
    ends = list(manifest.end_ids)
    context = int(getattr(text, "max_position_embeddings", None) or 2048)
    model: dict[str, Any] = {
        "type": GENAI[manifest.model_type],
        "bos_token_id": text.bos_token_id or 0,
        "eos_token_id": ends[0] if len(ends) == 1 else ends,
        "pad_token_id": manifest.pad_id,
        "vocab_size": text.vocab_size,
        "context_length": context,
        "decoder": _genai_decoder(text, manifest, files.decoder),
    }
    if manifest.image:
        model |= _genai_vision(config, manifest.image, files)
    search = {
        "do_sample": False,
        "max_length": context,
        "num_beams": 1,
        "past_present_share_buffer": False,
        "temperature": 1.0,
        "top_k": 1,
        "top_p": 1.0,
    }
    return {"model": model, "search": search}


def _genai_decoder(text: Any, manifest: GraphFacts, filename: str) -> dict[str, Any]:
    tokens = "inputs_embeds" if manifest.image else "input_ids"
    return {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": filename,
        "head_size": manifest.cache.head_dim,
        "hidden_size": text.hidden_size,
        "num_attention_heads": text.num_attention_heads,
        "num_hidden_layers": manifest.cache.layers,
        "num_key_value_heads": manifest.cache.kv_heads,
        "inputs": {
            tokens: tokens,
            "attention_mask": "attention_mask",
            "position_ids": "position_ids",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }


def _genai_vision(config: PretrainedConfig, image: ImageInput, files: Variant) -> dict[str, Any]:
    """The graphs before the decoder; M-RoPE wants the size of merged patches and the tokens around an image, too."""
    section: dict[str, Any] = {
        "image_token_id": image.token_id,
        "embedding": {
            "filename": files.merge,
            "inputs": {"input_ids": "input_ids", "image_features": "image_features"},
            "outputs": {"inputs_embeds": "inputs_embeds"},
        },
        "vision": {
            "filename": files.vision,
            "inputs": {"pixel_values": "pixel_values"},
            "outputs": {"image_features": "image_features"},
        },
    }
    if image.spatial_merge_size is not None:
        section["vision"]["inputs"]["image_grid_thw"] = "image_grid_thw"
        section["vision"]["spatial_merge_size"] = image.spatial_merge_size
        section |= {name: getattr(config, name) for name in ("video_token_id", "vision_start_token_id")}
    return section
