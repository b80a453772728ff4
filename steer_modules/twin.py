"""A tiny twin of any model: its config with few layers, narrow, of every kind of layer that the config has.

What decides how the stock classes behave stays as it is: kinds of layers, positions, norms, biases, the size of a head. What
only decides how large they are is cut, by the names that Transformers' configs give it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import TypeGuard

from transformers import PretrainedConfig

from .schema import CONFIG_KEYS

VOCABULARY, LAYERS, WINDOW = 32, 3, 5
EXPERTS, CHOSEN = 4, 2
PICTURE = VOCABULARY - 1
"""The token that stands for a picture in a twin."""

_INNER = re.compile(
    r"intermediate_(size|dim)|(ffn_hidden|ffn_inner|mlp_hidden)_(size|dim)$|^(ffn_dim|n_inner|d_ff|ffn_size)$"
)
_COUNTS = re.compile(r"^(moe_)?(n(um)?_)?(local_|routed_|total_)?experts$")
_PER_TOKEN = re.compile(r"^(num_|moe_)?(experts_per_tok(en)?|experts_top_k|top_?k|k|top_k_experts)$")
_WINDOWS = ("sliding_window", "attention_chunk_size")
_PLACEHOLDER = re.compile(r"(?P<kind>image|img|video|audio|vision|boi|eoi|boa|eoa).*token_(id|index)$")
_TOWER_LAYERS = ("num_hidden_layers", "depth", "num_layers", "encoder_layers", "n_layers")


def twin_config(config: PretrainedConfig) -> PretrainedConfig:
    """A config of the same kind for a model of some ten thousand to some million weights, without steering.

    Raises:
        ValueError: naming what of the config cannot be cut.
    """
    small = copy.deepcopy(config)
    for name in CONFIG_KEYS:
        vars(small).pop(name, None)
    if getattr(small, "quantization_config", None) is not None:
        del small.quantization_config
    text = small.get_text_config(decoder=True)
    if getattr(text, "is_heterogeneous", False):
        differing = ", ".join(sorted(text.per_layer_attributes or ())) or "each layer's settings"
        raise ValueError(f"its layers differ in size ({differing} in per_layer_config)")
    wide = _number(text, "hidden_size")
    _cut_decoder(text)
    for tower in _inner(small):
        if tower is not text:
            _cut_tower(tower, wide, int(text.hidden_size))
    for one in (small, *_inner(small)):
        for name, value in list(vars(one).items()):
            if type(value) is int and (found := _PLACEHOLDER.match(name)):
                place = {"image": PICTURE, "img": PICTURE, "video": PICTURE - 1, "audio": PICTURE - 2}
                setattr(one, name, place.get(found["kind"], PICTURE - 3))
    if text is not small:
        _set(small, {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None})
        _set_known(small, {"vocab_size": VOCABULARY})
    if str(getattr(small, "_attn_implementation", None)) not in ("eager", "sdpa", "None"):
        small._attn_implementation = "sdpa"  # others need a device of their own
    return small


def _cut_decoder(text: PretrainedConfig) -> None:
    heads = _number(text, "num_attention_heads")
    head = int(getattr(text, "head_dim", None) or _number(text, "hidden_size") // heads)
    groups = int(getattr(text, "num_key_value_heads", None) or heads)
    kinds = _layers(text)
    _cut_lists(text, kinds)
    _set_known(
        text,
        {
            "num_hidden_layers": len(kinds),
            "hidden_size": 2 * head,
            "num_attention_heads": 2,
            "num_key_value_heads": 1 if groups < heads else 2,
            "num_kv_heads": 1 if groups < heads else 2,
            "head_dim": head,
            **dict.fromkeys(_WINDOWS, WINDOW),
        },
    )
    for name, value in list(vars(text).items()):
        if isinstance(value, bool) or not isinstance(value, int):
            continue
        if _INNER.search(name):
            setattr(text, name, min(value, 2 * head))
        elif "vocab_size" in name:
            setattr(text, name, VOCABULARY)
        elif _COUNTS.match(name):
            setattr(text, name, min(value, EXPERTS))
        elif _PER_TOKEN.match(name):
            setattr(text, name, min(value, CHOSEN))
        elif name in ("n_group", "topk_group", "first_k_dense_replace"):
            setattr(text, name, min(value, 1))
        elif name.endswith("lora_rank"):
            setattr(text, name, min(value, 2 * head))
    _set(text, {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None})


def _layers(text: PretrainedConfig) -> list[int]:
    """Layers of the model that the twin's are like: the first of every kind, in order, over again to at least three."""
    count = _number(text, "num_hidden_layers")
    lists = [value for value in vars(text).values() if _is_list(value) and len(value) == count]
    kinds: dict[str, int] = {}
    for index in range(count):
        kinds.setdefault(repr([value[index] for value in lists]), index)
    firsts = list(kinds.values())
    return [firsts[place % len(firsts)] for place in range(max(LAYERS, len(firsts)))]


def _cut_lists(text: PretrainedConfig, layers: list[int]) -> None:
    """Lists with an entry for each layer, and lists of layers by number."""
    count = _number(text, "num_hidden_layers")
    for name, value in list(vars(text).items()):
        if not _is_list(value):
            continue
        if len(value) == count:
            setattr(text, name, [value[layer] for layer in layers])
        elif "layer" in name and all(type(one) is int for one in value):
            setattr(text, name, [place for place, layer in enumerate(layers) if layer in value])


def _cut_tower(tower: PretrainedConfig, wide: int, narrow: int) -> None:
    """A tower that hands the decoder what it sees or hears; ``wide`` states become ``narrow`` ones."""
    ends = ["out_hidden_size", "projection_dim", "output_dim"]
    ends += ["hidden_size"] if hasattr(tower, "embed_dim") else []  # then that is what comes out of it
    fitting = [name for name in ends if getattr(tower, name, None) == wide]
    _set_known(
        tower,
        dict.fromkeys(_TOWER_LAYERS, 1)
        | {"hidden_size": 32, "intermediate_size": 32, "head_dim": 16}
        | {"num_attention_heads": 2, "num_heads": 2},
    )
    _set(tower, dict.fromkeys(fitting, narrow))


def _inner(config: PretrainedConfig) -> list[PretrainedConfig]:
    """The configs within a config, at any depth."""
    found = []
    for value in vars(config).values():
        if isinstance(value, PretrainedConfig):
            found += [value, *_inner(value)]
    return found


def _number(config: PretrainedConfig, name: str) -> int:
    value = getattr(config, name, None)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(
            f"the config of its decoder ({type(config).__name__}) has {name} = {value!r}, which is not a size"
        )
    return value


def _is_list(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list | tuple) and len(value) > 0


def _set_known(config: PretrainedConfig, values: Mapping[str, object]) -> None:
    """Sets what a config has; names that it maps to its own are understood."""
    _set(config, {name: value for name, value in values.items() if getattr(config, name, None) is not None})


def _set(config: PretrainedConfig, values: Mapping[str, object]) -> None:
    for name, value in values.items():
        kept = getattr(type(config), name, None)
        if not isinstance(kept, property) or kept.fset is not None:  # some are computed from others
            setattr(config, name, value)
