"""Which models can be steered at all, told from a config alone; what else there is to know shows in a tiny twin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers
from transformers.models.auto import configuration_auto, modeling_auto

from steer_modules.template import stock_classes

RECURRENT = frozenset({"linear_attention", "mamba", "conv", "recurrent", "hybrid", "hybrid_sliding"})
"""Kinds of layers (``layer_types``) whose cache is a state, not columns."""
_STATE = (
    "its cache is a recurrent state, not columns: gates cannot be cropped with it, and padding would enter it"
)
_SIZES = "its layers differ in size, so no tiny twin of it can be built"
_ARGUMENTS = "its blocks do not receive the keyword arguments of the forward pass, which carry the gates"
_STREAMS = (
    "its blocks pass on several streams of states (hyper-connections); steering needs one state a column"
)
REFUSED: Mapping[str, str] = {
    **dict.fromkeys(
        [
            "bamba",
            "bailing_hybrid",
            "falcon_h1",
            "falcon_mamba",
            "granitemoehybrid",
            "inkling_text",
            "inkling_mm_model",
            "inkling2",
            "inkling2_text",
            "jamba",
            "kimi_linear",
            "lfm3",
            "lfm3_vl",
            "mamba",
            "mamba2",
            "minimax",
            "minicpmv4_6",
            "minicpmv4_7",
            "minicpm_ocr",
            "nemotron_h",
            "nemotron_h_omni",
            "olmo_hybrid",
            "qwen3_5",
            "qwen3_5_moe",
            "qwen3_5_moe_text",
            "qwen3_5_text",
            "qwen3_next",
            "qwen4_exp",
            "qwen4_exp_text",
            "recurrent_gemma",
            "rwkv",
            "xlstm",
            "zamba",
            "zamba2",
            "zaya",
        ],
        _STATE,
    ),
    **dict.fromkeys(
        [
            "bloom",
            "falcon",
            "gpt_neo",
            "gpt_neox_japanese",
            "gptj",
            "mpt",
            "openai-gpt",
            "trocr",
            "xlnet",
        ],
        _ARGUMENTS,
    ),
    **dict.fromkeys(["deepseek_v4", "glm5_next", "hy_v4"], _STREAMS),
    **dict.fromkeys(
        ("gemma3n", "gemma3n_text"),
        "its blocks pass on several streams of states (AltUp); steering needs one state a column",
    ),
    "paligemma": "it reads its prompt in both directions, so a gate at a column would depend on later ones",
    "diffusion_gemma": "it generates by denoising, not column after column",
    "reformer": "its blocks are reversible: each passes on two streams of states",
    **dict.fromkeys(
        ("mllama", "idefics", "evolla"), "its images are not columns: it reads them by cross-attention"
    ),
    **dict.fromkeys(
        [
            "blip",
            "blip-2",
            "git",
            "instructblip",
            "instructblipvideo",
            "kosmos-2",
            "kosmos-2.5",
            "pix2struct",
            "udop",
            "florence2",
        ],
        "its text model has no list of decoder blocks",
    ),
}
"""Model types that are known to fail, and why; tried with Transformers 5.23."""


def why_unsteerable(config: Any) -> str | None:
    """Why no model of this config can be steered, in a sentence; None where nothing is known against it.

    Pure and quick: reads names, builds no model. What it lets pass is proven by ``exporter.targets.checkpoint.prove_family``.

    Args:
        config: content of config.json, or a loaded Transformers config.
    """
    settings = (
        config if isinstance(config, Mapping) else {**config.to_dict(), "model_type": config.model_type}
    )
    model_type = str(settings.get("model_type"))
    reason = _reason(settings, model_type)
    return None if reason is None else f"models of type {model_type!r} cannot be steered: {reason}"


def _reason(settings: Mapping[str, object], model_type: str) -> str | None:
    if model_type not in vars(configuration_auto)["CONFIG_MAPPING_NAMES"]:
        return f"Transformers {transformers.__version__} does not have this model type"
    text = settings.get("text_config")
    parts = [settings, text] if isinstance(text, Mapping) else [settings]
    known = (REFUSED.get(str(part.get("model_type"))) for part in parts)
    return (
        next((one for one in known if one), None)
        or _told_of(model_type, parts)
        or _task(settings, model_type)
    )


def _told_of(model_type: str, parts: list[Mapping[str, object]]) -> str | None:
    """What the settings of a model, and of its decoder, say against it."""
    pairs = vars(modeling_auto)["MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES"]
    if parts[0].get("is_encoder_decoder") or model_type in pairs:
        return "it is an encoder-decoder model; only decoders can be steered"
    if model_type in vars(modeling_auto)["MODEL_FOR_MASKED_LM_MAPPING_NAMES"]:
        return "it is an encoder: a column attends to later ones"
    for part in parts:
        kinds = part.get("layer_types")
        for kind in RECURRENT.intersection(map(str, kinds if isinstance(kinds, list | tuple) else ())):
            return f"it has layers of kind {kind!r}: {_STATE}"
        if part.get("per_layer_config"):
            return f"{_SIZES} (per_layer_config)"
        if part.get("output_router_logits"):
            return "output_router_logits makes its stock class fail on padded rows; set it to false in config.json"
        if part.get("use_bidirectional_attention"):
            return "use_bidirectional_attention lets a column attend to later ones"
    return None


def _task(settings: Mapping[str, object], model_type: str) -> str | None:
    named = settings.get("architectures")
    if not isinstance(named, list) or len(named) != 1:
        return None
    try:
        stock_classes(model_type, str(named[0]))
    except ValueError as error:
        return str(error)
    return None
