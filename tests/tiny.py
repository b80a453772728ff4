"""Tiny random models of every family, their inputs, and steering programs for them. No network, no tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from exporter.targets import checkpoint
from steer_modules.ops import unit
from steer_modules.program import BaseModelRef, Edit, Gate, SteeringProgram

D, LAYERS, VOCAB = 32, 4, 96
IMAGE, PAD = 90, 0
NEW = 8
HEADER = (84, 85)
"""The generation header: every prompt ends in it, and no other token of a prompt is one of its tokens."""

_DECODER: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": D,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_SPECIAL = {
    "image_token_id": IMAGE,
    "video_token_id": 91,
    "vision_start_token_id": 92,
    "vision_end_token_id": 93,
}
_MROPE = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", _DECODER),
    "mistral": ("MistralForCausalLM", {**_DECODER, "sliding_window": 64}),
    "qwen2": ("Qwen2ForCausalLM", _DECODER),
    "qwen3": ("Qwen3ForCausalLM", {**_DECODER, "head_dim": 8}),
    "gemma3_text": ("Gemma3ForCausalLM", {**_DECODER, "head_dim": 8, "sliding_window": 16}),
    "gpt2": (
        "GPT2LMHeadModel",
        {
            "vocab_size": VOCAB,
            "n_embd": D,
            "n_layer": LAYERS,
            "n_head": 4,
            "n_positions": 256,
            "pad_token_id": PAD,
        }
        | {"bos_token_id": 1, "eos_token_id": 2},
    ),
    "llava": (
        "LlavaForConditionalGeneration",
        {
            "text_config": {"model_type": "llama", **_DECODER},
            "vision_config": {"model_type": "clip_vision_model", **_TOWER, "image_size": 16, "patch_size": 8},
            "image_token_id": IMAGE,
            "vision_feature_layer": -1,
        },
    ),
    "qwen2_5_vl": (
        "Qwen2_5_VLForConditionalGeneration",
        {
            "text_config": {**_DECODER, "rope_parameters": _MROPE},
            "vision_config": {
                "depth": 2,
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_heads": 2,
                "patch_size": 4,
                "out_hidden_size": D,
                "window_size": 16,
                "fullatt_block_indexes": [1],
            },
            **_SPECIAL,
        },
    ),
    "qwen3_vl": (
        "Qwen3VLForConditionalGeneration",
        {
            "text_config": {
                **_DECODER,
                "head_dim": 8,
                "rope_parameters": {**_MROPE, "mrope_interleaved": True},
            },
            "vision_config": {
                "depth": 2,
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_heads": 2,
                "patch_size": 4,
                "out_hidden_size": D,
                "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0],
            },
            **_SPECIAL,
        },
    ),
    "smolvlm": (
        "SmolVLMForConditionalGeneration",
        {
            "text_config": {"model_type": "llama", **_DECODER},
            "vision_config": {**_TOWER, "image_size": 16, "patch_size": 4},
            "image_token_id": IMAGE,
            "scale_factor": 2,
            "pad_token_id": PAD,
        },
    ),
    "internvl": (
        "InternVLForConditionalGeneration",
        {
            "text_config": {"model_type": "qwen2", **_DECODER},
            "vision_config": {**_TOWER, "image_size": [16, 16], "patch_size": [4, 4]},
            "image_token_id": IMAGE,
            "image_seq_length": 4,
            "downsample_ratio": 0.5,
        },
    ),
    "gemma3": (
        "Gemma3ForConditionalGeneration",
        {
            "text_config": {
                **_DECODER,
                "head_dim": 8,
                "sliding_window": 6,
                "layer_types": ["sliding_attention", "full_attention"] * 2,
            },
            "vision_config": {
                "model_type": "siglip_vision_model",
                **_TOWER,
                "image_size": 16,
                "patch_size": 4,
                "vision_use_head": False,
            },
            "image_token_index": IMAGE,
            "boi_token_index": 92,
            "eoi_token_index": 93,
            "mm_tokens_per_image": 4,
        },
    ),
}
IMAGE_TOKENS = 4


def build(model_type: str, seed: int = 0, text: dict[str, Any] | None = None, layers: int = LAYERS) -> Any:
    """A tiny random model of the family, in eval mode, with states large enough for edits to change its words.

    Args:
        text: other values for the decoder's config.
        layers: decoder blocks, the first of those that the family has here.
    """
    import transformers

    if layers != LAYERS:
        text = {**_of_layers(model_type, layers), **(text or {})}

    architecture, values = CONFIGS[model_type]
    if text and "text_config" in values:
        values = {**values, "text_config": {**values["text_config"], **text}}
    elif text:
        values = {**values, **text}
    config = transformers.AutoConfig.for_model(model_type, **values)
    config.architectures = [architecture]
    torch.manual_seed(seed)
    model = getattr(transformers, architecture)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and not parameter.any():  # an untrained projection would blind the model
                parameter.normal_(std=0.02)
            if parameter.dim() > 1:
                parameter.mul_(4.0)
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = None
    return model


def _of_layers(model_type: str, layers: int) -> dict[str, Any]:
    values = CONFIGS[model_type][1]
    values = values.get("text_config", values)
    kinds = {"layer_types": values["layer_types"][:layers]} if "layer_types" in values else {}
    return {"n_layer" if "n_layer" in values else "num_hidden_layers": layers, **kinds}


def sees(model_type: str) -> bool:
    return "vision_config" in CONFIGS[model_type][1]


def prompt(model_type: str, seed: int, length: int = 8) -> dict[str, Tensor]:
    """One prompt [1, T], with an image where the family takes one."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 80, (1, length), generator=generator)
    ids[:, -len(HEADER) :] = torch.tensor(HEADER)
    inputs: dict[str, Tensor] = {}
    if sees(model_type):
        ids[:, 1 : 1 + IMAGE_TOKENS] = IMAGE
        inputs.update(_image(model_type, generator))
        if model_type.startswith("qwen"):
            inputs["mm_token_type_ids"] = (ids == IMAGE).long()
        if model_type == "gemma3":
            inputs["token_type_ids"] = (ids == IMAGE).long()
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **inputs}


def _image(model_type: str, generator: torch.Generator) -> dict[str, Tensor]:
    if model_type.startswith("qwen"):
        grid = torch.tensor([[1, 4, 4]])
        return {"pixel_values": torch.randn(16, 3 * 2 * 4 * 4, generator=generator), "image_grid_thw": grid}
    shape = (1, 1, 3, 16, 16) if model_type == "smolvlm" else (1, 3, 16, 16)
    return {"pixel_values": torch.randn(*shape, generator=generator)}


def batch(prompts: list[dict[str, Tensor]], side: str) -> dict[str, Tensor]:
    """Prompts of any lengths as one padded batch."""
    longest = max(p["input_ids"].shape[1] for p in prompts)
    out: dict[str, Tensor] = {}
    for key in prompts[0]:
        parts = [p[key] for p in prompts]
        if key in ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"):
            gaps = [longest - t.shape[1] for t in parts]
            parts = [
                torch.nn.functional.pad(t, (g, 0) if side == "left" else (0, g))
                for t, g in zip(parts, gaps, strict=True)
            ]
        out[key] = torch.cat(parts)
    return out


def block_states(model: Any, inputs: dict[str, Tensor], layer: int) -> Tensor:
    """Output [B, T, d] of one decoder block."""
    seen: list[Tensor] = []
    decoder = model.get_decoder()
    blocks = decoder.layers if hasattr(decoder, "layers") else decoder.h
    handle = blocks[layer].register_forward_hook(lambda _m, _i, o: seen.append(o))
    with torch.no_grad():
        model(**inputs)
    handle.remove()
    return seen[0]


def gate_between(
    model: Any, fires: dict[str, Tensor], stays: dict[str, Tensor], layer: int = 1, **keys: Any
) -> Gate:
    """A linear gate that fires on one prompt and not on the other."""
    a, b = (block_states(model, inputs, layer)[0, -1].float() for inputs in (fires, stays))
    weight = unit(a - b)
    bias = -(weight @ (a + b) / 2).reshape(1)
    values = {
        "name": "topic",
        "pool": "prompt_end",
        "score": "linear",
        "threshold": 0.0,
        "fires": "above",
        **keys,
    }
    return Gate(layer=layer, tensors={"weight": weight, "bias": bias}, **values)


def fixed_gate(on: bool, pool: str = "prompt_end", layer: int = 1) -> Gate:
    """A gate that always or never fires."""
    tensors = {"weight": torch.zeros(D), "bias": torch.tensor([1.0 if on else -1.0])}
    return Gate("topic", layer, pool, "linear", 0.0, "above", tensors)


def turn(layer: int = 2, gate: str | None = "topic", seed: int = 7, **keys: Any) -> Edit:
    """A rotation to the nearest of three random prototypes."""
    rows = torch.randn(3, D, generator=torch.Generator().manual_seed(seed))
    values = {
        "positions": "all" if gate is None else "from_gate",
        "strength": 1.0,
        "target": "nearest",
        "angle": "fraction",
        "protect": "none",
    }
    return Edit(layer=layer, gate=gate, op="rotate", tensors={"prototypes": rows}, **{**values, **keys})


def program(model: Any, gates: list[Gate], edits: list[Edit]) -> SteeringProgram:
    """A program for a tiny model."""
    base = BaseModelRef(type(model).__name__, model.config.model_type)
    layers = int(model.config.get_text_config(decoder=True).num_hidden_layers)
    return SteeringProgram("test", D, layers, base, tuple(gates), tuple(edits), (HEADER,))


def compiled(base: Path, program: SteeringProgram, out: Path) -> Path:
    """A checkpoint without the proof of its family, which tests/families gives for all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "prove_family", lambda _config: None)
        return checkpoint.compile_checkpoint(base, program, out)


def compiled_llama(home: Path) -> Path:
    """A checkpoint with an open gate and two edits, of a base beside it."""
    model = build("llama")
    model.save_pretrained(home / "base")
    return compiled(
        home / "base", program(model, [fixed_gate(True)], [turn(2), turn(3, seed=9)]), home / "steered"
    )


def answer(model: Any, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    """The NEW tokens [B, NEW] a model adds, greedily unless told otherwise."""
    options = {"max_new_tokens": NEW, "do_sample": False, **options}
    return model.generate(**inputs, **options)[:, -NEW:]


def logits(model: Any, **inputs: Any) -> Tensor:
    """Logits [B, T, V] of one pass."""
    with torch.no_grad():
        return model(**inputs).logits
