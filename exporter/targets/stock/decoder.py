"""What an inserted layer has to fit into: the decoder of a base model, read from its config and tensor names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from exporter.errors import CompileError
from exporter.reader import loaded_config
from exporter.targets.base_weights import BaseWeights

DECODERS = ("llama", "mistral", "qwen2", "qwen3", "qwen2_5_vl_text")
"""Model types of decoders whose layers are RMSNorm, rotary attention, RMSNorm, SwiGLU, each with its own residual."""
MODELS = (*DECODERS[:4], "internvl", "llava", "qwen2_5_vl", "smolvlm")
_REASONS = {
    "gemma3": "its sandwich norms rescale what a layer adds, so nothing can be added exactly",
    "gemma3_text": "its sandwich norms rescale what a layer adds, so nothing can be added exactly",
    "gpt2": "its LayerNorm removes the mean and its MLP has no gate that is exactly off",
    "qwen3_vl": "it adds image features to the first decoder layers by number (deepstack)",
}
_LAYER = re.compile(r"^(?P<prefix>.*\blayers\.)(?P<layer>\d+)\.input_layernorm\.weight$")
LEAST_COSINE = 0.5


@dataclass(frozen=True)
class DecoderShape:
    """Sizes and names of a decoder.

    Attributes:
        width: hidden size d.
        inner: units of the MLP.
        heads, groups: query heads, and key-value heads.
        head: size of a head.
        eps: of the RMSNorm.
        layers: how many there are.
        qk_norm: queries and keys are brought to unit length, head by head, before the rotation.
        prefix: of the layers' tensor names, ``model.layers.`` for a text model.
        suffixes: what follows the layer's number in the names of the tensors of one layer, with their shapes.
        dtype: of the stored weights.
    """

    width: int
    inner: int
    heads: int
    groups: int
    head: int
    eps: float
    layers: int
    qk_norm: bool
    prefix: str
    suffixes: Mapping[str, tuple[int, ...]]
    dtype: torch.dtype

    def group_of(self, head: int) -> int:
        """The key-value head that a query head reads."""
        return head * self.groups // self.heads

    def channel(self, rank: int) -> int:
        """The first half of the rotary pair of rank-lowest frequency: what is written there hardly turns with distance."""
        return self.head // 2 - 1 - rank


def read_decoder(config: Mapping[str, Any], weights: BaseWeights) -> DecoderShape:
    """The decoder of a base model.

    Args:
        config: content of config.json of the base.
        weights: of the base (a steered checkpoint's without its ``steering.`` tensors).

    Raises:
        CompileError: its layers are not of the kind that the construction is made for; the reason is named.
    """
    text = loaded_config(config).get_text_config().to_dict()
    check_kind(config)
    prefix = _prefix(weights, int(text["num_hidden_layers"]))
    stem = f"{prefix}0."
    found = {n.removeprefix(stem): t for n, t in weights.tensors.items() if n.startswith(stem)}
    heads = int(text["num_attention_heads"])
    groups = int(text.get("num_key_value_heads") or heads)
    if heads < 2:
        raise CompileError("the decoder has one attention head; the flag compares two")
    kinds = {t.dtype for t in found.values()}
    dtype = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}.get(next(iter(kinds)))
    if dtype is None or len(kinds) > 1:
        raise CompileError(
            f"the base stores its layers as {', '.join(sorted(kinds))}; export from float weights"
        )
    return DecoderShape(
        width=int(text["hidden_size"]),
        inner=int(text["intermediate_size"]),
        heads=heads,
        groups=groups,
        head=found["self_attn.q_proj.weight"].shape[0] // heads,
        eps=float(text.get("rms_norm_eps", 1e-6)),
        layers=int(text["num_hidden_layers"]),
        qk_norm="self_attn.q_norm.weight" in found,
        prefix=prefix,
        suffixes={name: tensor.shape for name, tensor in found.items()},
        dtype=dtype,
    )


def check_kind(config: Mapping[str, Any]) -> None:
    """Raises CompileError where the decoder of a base with this config.json is of another kind; the reason is named."""
    text = loaded_config(config).get_text_config().to_dict()
    model, decoder = config["model_type"], text.get("model_type", config["model_type"])
    decoder = "qwen2_5_vl_text" if decoder == "qwen2_5_vl" else decoder
    if model not in MODELS or decoder not in DECODERS:
        reason = _REASONS.get(model) or _REASONS.get(decoder) or "its layers are of another kind"
        raise CompileError(
            f"a {model} with a {decoder} decoder cannot have a stock layer: {reason}; supported types: {', '.join(MODELS)}"
        )
    if text.get("hidden_act", "silu") != "silu":
        raise CompileError(
            f"the MLP's activation is {text['hidden_act']}; a unit that is exactly off needs silu"
        )
    window = text.get("sliding_window")
    if window and text.get("use_sliding_window", decoder == "mistral"):
        raise CompileError(
            f"the decoder attends to {window} positions (sliding_window): beyond them, the first token and the flag would be lost, and "
            "the steering with them; set sliding_window to null if the model allows it"
        )
    if any(kind != "full_attention" for kind in text.get("layer_types") or ()):
        raise CompileError("some layers attend to a window (layer_types); the flag would be lost beyond it")
    if text.get("pretraining_tp", 1) != 1:
        raise CompileError("pretraining_tp splits the sums of a layer; set it to 1")


def check_rotation(host: Any, ranks: int) -> float:
    """The least cosine by which the lowest rotary frequencies shrink a product over the model's whole context.

    Raises:
        CompileError: it falls under 0.5, so that a flag raised early would not be seen late.
    """
    rotary = host.model.get_decoder().rotary_emb
    reach = int(host.model.config.get_text_config().max_position_embeddings)
    slowest = rotary.inv_freq.float().sort().values[:ranks]
    least = float(torch.cos((slowest * reach).clamp(max=torch.pi)).min())
    if least < LEAST_COSINE:
        raise CompileError(
            f"over {reach} positions the slowest rotary pairs turn until only {least:.2f} of a product is left (at least {LEAST_COSINE} "
            "is needed): set max_position_embeddings to the length that is used"
        )
    return least


def _prefix(weights: BaseWeights, count: int) -> str:
    seen: dict[str, set[int]] = {}
    for name in weights.tensors:
        if match := _LAYER.match(name):
            seen.setdefault(match["prefix"], set()).add(int(match["layer"]))
    fitting = [prefix for prefix, layers in seen.items() if layers == set(range(count))]
    if len(fitting) != 1:
        raise CompileError(f"the {count} decoder layers were not found among the base's tensors")
    return fitting[0]
