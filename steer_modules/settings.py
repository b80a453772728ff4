"""Whether a model's config is the one its steering was made for: another rotary base or window moves the states that gates read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping

from transformers import PretrainedConfig, PreTrainedModel

from .files import present
from .schema import CONFIG_KEYS, HELD

KEY = "steering_settings"
"""Of a checkpoint's config.json: the settings that the steering was compiled with."""
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
        "license",
        "max_length",
        "min_length",
        "name_or_path",
        "num_labels",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "output_scores",
        "pad_token_id",
        "problem_type",
        "return_dict",
        "sep_token_id",
        "task_specific_params",
        "temperature",
        "top_p",
        "tokenizer_class",
        "torch_dtype",
        "transformers.js_config",
        "transformers_version",
        "use_cache",
    }
)
"""Keys that say how a model is run, trained, labelled or stored. Every other one counts as one that it computes with: also ``model_type``, by which
the parts of a config are read."""


def settings(config: Mapping[str, object]) -> dict[str, object]:
    """A config without the keys that change no state of a model that answers."""
    return {
        key: settings(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in _OF_A_RUN and not key.startswith("_") and "drop" not in key
    }


def why_other_settings(
    config: PretrainedConfig, source: str | os.PathLike[str], options: Mapping[str, object]
) -> str | None:
    """What in a loaded config is not the checkpoint's own; None where nothing is.

    What a config leaves out has the default of its class, so both are compared as Transformers spells them in full. A folder of an
    earlier version does not say with which settings it was compiled: what is loaded is then compared with its file alone.
    """
    path = present(source, "config.json", options)
    if path is None:
        return "it has no config.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    if key := other(_spelled(config, stored), settings(config.to_dict())):
        return f"{key} is not what its config.json sets"
    if key := unlike_compiled(config):
        return f"{key} is not what it was when the steering was compiled"
    return None


def unlike_compiled(config: PretrainedConfig) -> str | None:
    """The key of a config that is another than when the steering was compiled; None where none is, and where that is not known.

    It is known of every checkpoint whose signed section says so: there it cannot have been left out.
    """
    compiled = getattr(config, KEY, None)
    if compiled is None:
        section = getattr(config, "steering", None)
        held = section["base"].get("settings") if isinstance(section, Mapping) else None
        return f"config.{KEY}" if held == HELD else None
    if not isinstance(compiled, Mapping):
        return KEY
    return other(_spelled(config, compiled), settings(config.to_dict()))


def _spelled(config: PretrainedConfig, stored: Mapping[str, object]) -> dict[str, object]:
    """Settings of a file with every default of the config's class."""
    return settings(type(config).from_dict(dict(stored)).to_dict())


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
