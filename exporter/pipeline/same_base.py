"""Whether a folder was made of a base: by the fingerprint, by all weights where the folder notes their digest, and by the settings of the config.

The same weights under another rotary base or epsilon are another model, beside which a figure would say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from exporter import registry
from exporter.errors import InputErrors
from exporter.model_folder import read_object
from exporter.reader import loaded_config
from exporter.targets.base_weights import BaseWeights
from exporter.targets.companions import without_places
from exporter.targets.edited_base import plain_settings
from steer_modules.settings import other


def why_of_another_base(folder: Path, section: Mapping[str, object], base: Path) -> str | None:
    """What of a base a folder was not made of, in a few words; None where it is the same, as far as the folder says.

    Graphs, GGUF files and stock layers of earlier versions that lie in no release note no settings: of those the fingerprint alone is compared.

    Args:
        folder: what a target wrote, alone or in its release.
        section: what the folder was made of (:meth:`exporter.targets.base.Target.origin`).

    Raises:
        CompileError: the weights of the base cannot be read.
    """
    noted, weights = section.get("base"), BaseWeights.read(base)
    noted = noted if isinstance(noted, Mapping) else {}
    if noted.get("fingerprint") is not None and noted["fingerprint"] != weights.fingerprint():
        return "its weights are others"
    wanted = noted.get("settings") if isinstance(noted.get("settings"), Mapping) else _config_of(folder)
    if wanted is not None and (key := other_setting(wanted, read_object(base / "config.json", strict=False))):
        return f"{key} is another"
    if noted.get("weights_sha256") is not None and noted["weights_sha256"] != weights.sha256():
        return "its weights differ in places that the fingerprint does not read"
    return None


def _config_of(folder: Path) -> Mapping[str, object] | None:
    """The config of the checkpoint, steered or merged, that a folder is or lies beside; it is held to its own base's when it is loaded."""
    for place in (folder, folder.resolve().parent):
        if registry.root_at(place) is not None and (place / "config.json").is_file():
            return read_object(place / "config.json", strict=False)
    return None


def other_setting(wanted: Mapping[str, object], config: Mapping[str, object]) -> str | None:
    """The first key at which a checkpoint's config computes something else than that of a base, both with every default of the base's class."""
    return other(_spelled({**wanted, "model_type": config.get("model_type")}), _spelled(config))


def _spelled(config: Mapping[str, object]) -> dict[str, JsonValue]:
    try:
        return plain_settings(loaded_config(without_places(config)).to_dict())
    except InputErrors:  # a type of the base's own code: as it is written
        return plain_settings(config)
