"""The files of a steered checkpoint: which weights are allowed, which code travels with it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig
from transformers.utils.hub import cached_file

VARIANT = "steered"
"""Weights variant of every steered checkpoint: its files have names that no stock class asks for of itself."""

WEIGHTS = f"model.{VARIANT}.safetensors"
WEIGHTS_INDEX = f"model.safetensors.index.{VARIANT}.json"

STOCK_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "tf_model.h5",
    "flax_model.msgpack",
    "adapter_config.json",
)
"""Files that a stock class would load, and with them an unsteered model."""

TRAVELLING = (
    "call.py",
    "canary.py",
    "checks.py",
    "columns.py",
    "files.py",
    "fingerprint.py",
    "headers.py",
    "model_checks.py",
    "ops.py",
    "outputs.py",
    "parts.py",
    "placement.py",
    "positions.py",
    "program.py",
    "proof.py",
    "resolve.py",
    "schema.py",
    "sealing.py",
    "settings.py",
    "state.py",
    "steered_model.py",
    "steering_layer.py",
    "tensor_checks.py",
    "twin.py",
    "versions.py",
    "weights.py",
)
"""Modules that go into every checkpoint, beside the modeling file of its family."""

_HUB_OPTIONS = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "proxies",
    "revision",
    "subfolder",
    "token",
)


def present(source: str | os.PathLike[str], name: str, options: Mapping[str, object]) -> Path | None:
    """A file of a folder or repository; None where it has none of that name."""
    hub = {option: options[option] for option in _HUB_OPTIONS if options.get(option) is not None}
    found = cached_file(
        source,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **hub,
    )
    return None if found is None else Path(found)


def check_weight_files(source: str | os.PathLike[str] | None, options: Mapping[str, object]) -> None:
    """Raises RuntimeError if a folder or repository contains weights under a name that a stock class would load."""
    if source is None:
        return
    found = [name for name in STOCK_WEIGHTS if present(source, name, options) is not None]
    if found:
        raise RuntimeError(
            f"{source} contains {found[0]}, which a stock class would load and run unsteered; the steered weights are listed in "
            f"{WEIGHTS_INDEX}. Remove {found[0]}"
        )


def weight_files(
    source: str | os.PathLike[str], options: Mapping[str, object]
) -> tuple[dict[str, Path], dict[str, str] | None]:
    """The shards of a steered checkpoint by name, and the shard of each tensor where an index says it.

    Raises:
        RuntimeError: there are none, both a single file and an index, or a shard that the index names is missing.
    """
    index, single = present(source, WEIGHTS_INDEX, options), present(source, WEIGHTS, options)
    if index is not None and single is not None:
        raise RuntimeError(
            f"{source} contains both {WEIGHTS} and {WEIGHTS_INDEX}, and Transformers would load only the first; remove the one that does "
            "not belong to the model"
        )
    if index is None:
        if single is None:
            raise RuntimeError(f"{source} contains neither {WEIGHTS_INDEX} nor {WEIGHTS}")
        return {WEIGHTS: single}, None
    names: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    shards = {}
    for shard in sorted(set(names.values())):
        path = present(source, shard, options)
        if path is None:
            raise RuntimeError(f"{source} lacks {shard}, which its index lists")
        shards[shard] = path
    return shards, names


def named_weights(folder: Path) -> set[Path]:
    """The single weight file of a folder, or the index and its shards; empty if there is neither."""
    single, index = folder / WEIGHTS, folder / WEIGHTS_INDEX
    found = {path for path in (single, index) if path.is_file()}
    if index in found:
        named = json.loads(index.read_text(encoding="utf-8")).get("weight_map", {})
        found |= {folder / name for name in named.values() if "/" not in name}
    return found


def clear_for_saving(folder: Path) -> set[Path]:
    """Removes the files that select a folder's weights; returns the weight files.

    Beside new weights, an older index or single file would be loaded in their place.
    """
    before = named_weights(folder)
    for path in (folder / WEIGHTS, folder / WEIGHTS_INDEX):
        path.unlink(missing_ok=True)
    return before


def remove_stale(folder: Path, before: set[Path]) -> None:
    """Removes the weights that lay in a folder ``before`` a save and are not part of it."""
    for path in before - named_weights(folder):
        path.unlink(missing_ok=True)


def plain_auto_map(auto_map: dict[str, Any]) -> dict[str, Any]:
    """An auto_map that points at files of its own folder, not at the repository it was loaded from."""
    return {
        name: target.rpartition("--")[2] if isinstance(target, str) else target
        for name, target in auto_map.items()
    }


def check_has_code(model_class: type) -> None:
    """Raises RuntimeError for a class that was steered in memory: what it saved would be no model that steers itself."""
    if not hasattr(sys.modules[model_class.__module__], "AUTO_MAP"):
        raise RuntimeError(
            f"{model_class.__name__} was steered in memory and has no code to save; use exporter's compile, which writes a folder that "
            "loads anywhere"
        )


def save_code(model_class: type, config: PretrainedConfig, save_directory: str | os.PathLike[str]) -> None:
    """Writes the modeling file, the modules it needs and a plain auto_map into a saved folder."""
    folder = Path(save_directory)
    module = sys.modules[model_class.__module__]
    auto_map = getattr(config, "auto_map", None) or module.AUTO_MAP
    source = getattr(module, "SOURCE", None)
    name = module.AUTO_MAP["AutoConfig"].partition(".")[0] + ".py"
    text = source if source is not None else Path(str(module.__file__)).read_text(encoding="utf-8")
    (folder / name).write_text(text, encoding="utf-8")
    here = Path(__file__).parent
    for name in TRAVELLING:
        if (here / name).resolve() != (folder / name).resolve():
            shutil.copyfile(here / name, folder / name)
    path = folder / "config.json"
    if not path.is_file():  # an adapter alone was saved
        return
    saved = json.loads(path.read_text(encoding="utf-8"))
    saved["auto_map"] = plain_auto_map(auto_map)
    path.write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n", encoding="utf-8")
