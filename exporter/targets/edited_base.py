"""The base that an edit belongs to, as its manifest names it, and whether a folder is that base: all of its weights, and its settings.

The fingerprint (docs/format.md) reads the first bytes of each tensor, as a checkpoint is held to it each time it is loaded. An edit is bound once and
compared where it is merged or verified, so the digest here is of every byte: two bases may differ in later rows alone. The same weights under
another rotary base or epsilon are another model too, so the settings of the config are held as those of steered checkpoints are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from exporter.model_folder import read_object
from exporter.reader import loaded_config
from exporter.targets.base_weights import BaseWeights
from exporter.targets.companions import without_places
from exporter.weight_edit import EditedBase
from steer_modules.settings import other, settings

BEFORE = "the edit was written by an earlier version, which did not note the {what} of its base; only its fingerprint is compared: fit again to hold it to them"


def edited_base(folder: Path) -> EditedBase:
    """What is noted of the base in a folder; reads all of its weights once.

    Raises:
        CompileError: its weights cannot be read.
    """
    config, weights = read_object(folder / "config.json", strict=False), BaseWeights.read(folder)
    named = config.get("architectures")
    return EditedBase(
        architecture=str(named[0]) if isinstance(named, list) and named else "",
        model_type=str(config.get("model_type")),
        fingerprint=weights.fingerprint(),
        weights_sha256=weights.sha256(),
        settings=plain_settings(config),
    )


def plain_settings(config: Mapping[str, object]) -> dict[str, JsonValue]:
    """The settings of a config that decide what a model computes, as plain data that JSON has words for."""
    found: dict[str, JsonValue] = json.loads(
        json.dumps(_finite(settings(without_places(config))), default=str)
    )
    return found


def settings_in(folder: Path) -> dict[str, JsonValue]:
    """The settings of the base that a checkpoint was made of, steered or merged, by its config.json: what an export of it notes."""
    return plain_settings(read_object(folder / "config.json", strict=False))


def why_other_base(wanted: EditedBase, folder: Path) -> list[str]:
    """Why a folder is not the base that an edit was fitted on, one sentence a fault; what its manifest does not note is not compared.

    Raises:
        CompileError: its weights cannot be read.
    """
    config, weights = read_object(folder / "config.json", strict=False), BaseWeights.read(folder)
    named = config.get("architectures")
    found = {
        "architecture": named[0] if isinstance(named, list) and named else None,
        "model_type": config.get("model_type"),
        "fingerprint": weights.fingerprint(),
    }
    wrong = [
        f"base.{key} is {getattr(wanted, key)}, but this base has {value}"
        for key, value in found.items()
        if getattr(wanted, key) != value
    ]
    if wrong:
        return wrong
    if key := other_setting(wanted, config):
        return [f"{key} is not what it was when the edit was fitted"]
    if wanted.weights_sha256 is not None and wanted.weights_sha256 != weights.sha256():
        return [
            "its weights differ from those that the edit was fitted on in places that the fingerprint does not read"
        ]
    return []


def other_setting(wanted: EditedBase, config: Mapping[str, object]) -> str | None:
    """The first key at which a config computes something else than the base that an edit was fitted on; None where none does.

    Both are spelled in full first, with the defaults of the config's class, as Transformers may have written either without.
    """
    if wanted.settings is None:
        return None
    return other(_spelled(wanted.settings), _spelled(config))


def not_noted(wanted: EditedBase) -> str | None:
    """What a manifest of an earlier version leaves unsaid of the base, in a sentence; None where it is all there."""
    absent = {"weights_sha256": wanted.weights_sha256, "settings": wanted.settings}
    names = {"weights_sha256": "digest of all weights", "settings": "settings"}
    missing = [names[key] for key, value in absent.items() if value is None]
    return BEFORE.format(what=" and the ".join(missing)) if missing else None


def _spelled(config: Mapping[str, object]) -> dict[str, JsonValue]:
    return plain_settings(loaded_config(without_places(config)).to_dict())


def _finite(value: object) -> object:
    """The same with numbers that are not finite as words."""
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def bound_rows(base: EditedBase) -> list[tuple[str, str]]:
    """What of its base an edit is held to, for a summary."""
    note = not_noted(base)
    return [("held to", note or "all weights and the settings of its base")]
