"""Tiny configs of families that no list names: each is compiled because its twin keeps the law. Shapes of their pictures."""

from __future__ import annotations

from typing import Any

import tiny
import torch
from torch import Tensor

_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 8}
_SIGLIP = {"model_type": "siglip_vision_model", **tiny._TOWER, "image_size": 16, "patch_size": 4}
_CLIP = {"model_type": "clip_vision_model", **tiny._TOWER, "image_size": 16, "patch_size": 8}
_LLAMA = {"model_type": "llama", **tiny._DECODER}

TEXT: dict[str, tuple[str, dict[str, Any]]] = {
    "granite": (
        "GraniteForCausalLM",
        {
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "logits_scaling": 8.0,
            "attention_multiplier": 0.3,
        },
    ),
    "olmo2": ("Olmo2ForCausalLM", {}),
    "starcoder2": ("Starcoder2ForCausalLM", {"sliding_window": 6, "use_bias": True}),
    "stablelm": ("StableLmForCausalLM", {"use_parallel_residual": True, "use_qkv_bias": True}),
    "phi3": ("Phi3ForCausalLM", {"sliding_window": 6}),
    "mixtral": ("MixtralForCausalLM", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", {**_MOE, "mlp_only_layers": [1], "decoder_sparse_step": 1}),
    "gpt_oss": (
        "GptOssForCausalLM",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 6},
    ),
    "cohere": ("CohereForCausalLM", {"logit_scale": 0.0625, "use_qk_norm": True}),
    "glm4": ("Glm4ForCausalLM", {"head_dim": 8}),
    "gemma2": (
        "Gemma2ForCausalLM",
        {"head_dim": 8, "sliding_window": 6, "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0},
    ),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        {
            "num_key_value_heads": 4,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "moe_intermediate_size": 32,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
        },
    ),
}
VISION: dict[str, tuple[str, dict[str, Any]]] = {
    "llava_next": (
        "LlavaNextForConditionalGeneration",
        {
            "text_config": _LLAMA,
            "vision_config": _CLIP,
            "image_token_index": tiny.IMAGE,
            "image_grid_pinpoints": [[16, 16]],
            "vision_feature_layer": -1,
        },
    ),
    "llava_onevision": (
        "LlavaOnevisionForConditionalGeneration",
        {
            "text_config": {"model_type": "qwen2", **tiny._DECODER},
            "vision_config": {**_SIGLIP, "patch_size": 8, "vision_use_head": False},
            "image_token_index": tiny.IMAGE,
            "video_token_index": 91,
            "image_grid_pinpoints": [[16, 16]],
        },
    ),
    "idefics3": (
        "Idefics3ForConditionalGeneration",
        {
            "text_config": _LLAMA,
            "vision_config": {**tiny._TOWER, "image_size": 16, "patch_size": 4},
            "image_token_id": tiny.IMAGE,
            "scale_factor": 2,
            "pad_token_id": tiny.PAD,
        },
    ),
    "aya_vision": (
        "AyaVisionForConditionalGeneration",
        {
            "text_config": {"model_type": "cohere2", **tiny._DECODER, "sliding_window": 6},
            "vision_config": {**_SIGLIP, "vision_use_head": False},
            "image_token_index": tiny.IMAGE,
            "downsample_factor": 2,
        },
    ),
    "mistral3": (
        "Mistral3ForConditionalGeneration",
        {
            "text_config": {"model_type": "mistral", **tiny._DECODER, "head_dim": 8},
            "vision_config": {
                "model_type": "pixtral",
                **tiny._TOWER,
                "head_dim": 8,
                "image_size": 16,
                "patch_size": 4,
            },
            "image_token_index": tiny.IMAGE,
            "spatial_merge_size": 2,
        },
    ),
    "qwen2_vl": (
        "Qwen2VLForConditionalGeneration",
        {
            "text_config": {**tiny._DECODER, "rope_parameters": tiny._MROPE},
            "vision_config": {
                "depth": 2,
                "embed_dim": 16,
                "hidden_size": tiny.D,
                "num_heads": 2,
                "mlp_ratio": 2,
                "patch_size": 4,
            },
            **tiny._SPECIAL,
        },
    ),
    "vipllava": (
        "VipLlavaForConditionalGeneration",
        {
            "text_config": _LLAMA,
            "vision_config": _CLIP,
            "image_token_index": tiny.IMAGE,
            "vision_feature_layers": [-1, -2],
        },
    ),
}
FAMILIES = (*TEXT, *VISION)


def install(patch: Any) -> None:
    """Makes tests/tiny.py know these families, for as long as ``patch`` (a MonkeyPatch) lasts."""
    for name, (architecture, values) in TEXT.items():
        patch.setitem(tiny.CONFIGS, name, (architecture, {**tiny._DECODER, **values}))
    for name, value in VISION.items():
        patch.setitem(tiny.CONFIGS, name, value)


def prompt(family: str, seed: int, length: int) -> dict[str, Tensor]:
    """One prompt [1, T], with a picture of 16 x 16 in four tokens where the family takes one."""
    tiles = family in ("llava_next", "llava_onevision")
    made = tiny.prompt(family, seed, length + 6 * tiles)
    draw = torch.Generator().manual_seed(seed)
    if tiles:  # the whole picture, its one tile, and the ends of the tile's two lines
        made["input_ids"][:, 1:11] = tiny.IMAGE
        made["pixel_values"] = torch.randn(1, 2, 3, 16, 16, generator=draw)
    if family == "idefics3":
        made["pixel_values"] = torch.randn(1, 1, 3, 16, 16, generator=draw)
    if tiles or family == "mistral3":
        made["image_sizes"] = torch.tensor([[16, 16]])
    return made
