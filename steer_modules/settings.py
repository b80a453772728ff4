"""Whether a model's config is the one its steering was made for: another rotary base or window moves the states that gates read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from transformers import PretrainedConfig, PreTrainedModel

from .files import present
from .schema import CONFIG_KEYS

KEY = "steering_settings"
"""Of a checkpoint's config.json: the digest of its settings."""
_OF_A_RUN = frozenset(
    {
        *CONFIG_KEYS,
        "add_cross_attention",
        "architectures",
        "attn_implementation",
        "auto_map",
        "bos_token_id",
        "chunk_size_feed_forward",
        "decoder_start_token_id",
        "dtype",
        "eos_token_id",
        "gradient_checkpointing",
        "id2label",
        "initializer_range",
        "label2id",
        "model_type",
        "num_labels",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "pad_token_id",
        "problem_type",
        "return_dict",
        "sep_token_id",
        "tokenizer_class",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
"""Keys that say how a model is run, trained, labelled or stored. Every other one counts as one that it computes with."""


def settings(config: Mapping[str, object]) -> dict[str, object]:
    """A config without the keys that change no state of a model that answers."""
    return {
        key: settings(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in _OF_A_RUN and not key.startswith("_") and "drop" not in key
    }


def settings_sha256(config: Mapping[str, object]) -> str:
    """``sha256:`` + hex over the settings in a config file, as JSON with sorted keys."""
    return f"sha256:{hashlib.sha256(_text(settings(config)).encode()).hexdigest()}"


def why_other_settings(
    config: PretrainedConfig, source: str | os.PathLike[str], options: Mapping[str, object]
) -> str | None:
    """What in a loaded config is not the checkpoint's own; None where nothing is.

    A folder of an earlier version has no digest: what is loaded is then compared with its file alone.
    """
    path = present(source, "config.json", options)
    if path is None:
        return "it has no config.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    wanted = stored.get(KEY)
    if wanted is not None and wanted != settings_sha256(stored):
        return "a setting in its config.json was changed after the steering was compiled"
    own = type(config).from_dict(stored).to_dict()
    if key := other(settings(own), settings(config.to_dict())):
        return f"{key} is not what its config.json sets"
    return None


def remember_settings(model: PreTrainedModel) -> None:
    """Takes down the config that a model has now."""
    model.__dict__["_loaded_settings"] = _text(settings(model.config.to_dict()))


def changed_setting(model: PreTrainedModel) -> str | None:
    """The key of a config in memory that was changed since :func:`remember_settings`; None where none was."""
    known = model.__dict__.get("_loaded_settings")
    found = settings(model.config.to_dict())
    if known is None or known == _text(found):
        return None
    return other(json.loads(known), json.loads(_text(found)))


def sign_settings(folder: str | os.PathLike[str]) -> None:
    """Writes the digest of a saved folder's config into it: Transformers spells a config anew when it saves one."""
    path = Path(folder) / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config[KEY] = settings_sha256(config)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def other(wanted: Mapping[str, object], found: Mapping[str, object]) -> str | None:
    """The first dotted key at which two trees of settings differ."""
    return next(_others(wanted, found), None)


def _others(wanted: Mapping[str, object], found: Mapping[str, object], place: str = "") -> Iterator[str]:
    for key in sorted({*wanted, *found}):
        one, another = wanted.get(key), found.get(key)
        if isinstance(one, Mapping) and isinstance(another, Mapping):
            yield from _others(one, another, f"{place}{key}.")
        elif _text(one) != _text(another):
            yield f"config.{place}{key}"


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)
