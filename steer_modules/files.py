"""The files of a steered checkpoint, seen from the model: which weights may lie there, which code travels along."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

TRAVELLING = (
    "call.py",
    "checks.py",
    "files.py",
    "ops.py",
    "outputs.py",
    "program.py",
    "resolve.py",
    "schema.py",
    "steered_model.py",
    "steering_layer.py",
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


def check_weight_files(source: Any, options: dict[str, Any]) -> None:
    """Raises RuntimeError where a folder or repository holds a single weight file beside an index.

    Transformers would load the single file and ignore the index, and with it the steering.
    """
    if source is None:
        return
    hub = {name: options[name] for name in _HUB_OPTIONS if options.get(name) is not None}
    found = [
        cached_file(
            source,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            **hub,
        )
        for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
    ]
    if all(found):
        raise RuntimeError(
            f"{source} holds both {SAFE_WEIGHTS_NAME} and {SAFE_WEIGHTS_INDEX_NAME}; remove the one that is not the steered model"
        )


def plain_auto_map(auto_map: dict[str, Any]) -> dict[str, Any]:
    """An auto_map that points at files of its own folder, not at the repository it was loaded from."""
    return {
        name: target.rpartition("--")[2] if isinstance(target, str) else target
        for name, target in auto_map.items()
    }


def save_code(model_class: type, config: Any, save_directory: Any) -> None:
    """Writes the modeling file, the modules it needs and a plain auto_map into a saved folder."""
    folder = Path(save_directory)
    module = sys.modules[model_class.__module__]
    auto_map = getattr(config, "auto_map", None) or getattr(module, "AUTO_MAP", None)
    if not auto_map or not hasattr(module, "AUTO_MAP"):
        raise RuntimeError(
            f"{model_class.__name__} was steered in memory and has no code to save; write it with exporter's compile, "
            "which makes a folder that loads anywhere"
        )
    source = getattr(module, "SOURCE", None)
    name = module.AUTO_MAP["AutoConfig"].partition(".")[0] + ".py"
    text = source if source is not None else Path(str(module.__file__)).read_text(encoding="utf-8")
    (folder / name).write_text(text, encoding="utf-8")
    here = Path(__file__).parent
    for name in TRAVELLING:
        if (here / name).resolve() != (folder / name).resolve():
            shutil.copyfile(here / name, folder / name)
    path = folder / "config.json"
    saved = json.loads(path.read_text(encoding="utf-8"))
    saved["auto_map"] = plain_auto_map(auto_map)
    path.write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n", encoding="utf-8")
