"""Whether every weight and every piece of code in a folder belongs to a target that is verified."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from exporter.foreign_code import checkpoint_code, code_faults
from exporter.publish.files import CHECKPOINT, TARGETS, files_of, is_verified, kind_of
from exporter.verify.strict import Finding
from steer_modules.files import WEIGHTS_INDEX
from steer_modules.template import stock_classes

_WEIGHTS = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".onnx",
    ".onnx_data",
    ".gguf",
    ".h5",
    ".msgpack",
    ".npz",
    ".pkl",
    ".ot",
)
_CODE = (".py", ".pyc", ".so", ".mjs", ".js")


def check_allowlist(folder: Path, targets: Mapping[str, Path], trusted: Path | None = None) -> Finding:
    """Weights that no target names may be unsteered, and code that is not this library's may do anything.

    Args:
        targets: label and place of what is verified.
        trusted: a base whose own code the folder may hold.
    """
    inside = {label: path for label, path in targets.items() if folder in (path, path.parent)}
    named: set[str] = set()
    wrong: list[str] = []
    for label, path in inside.items():
        prefix = "" if path == folder else f"{path.name}/"
        try:
            named |= {prefix + name for name in _named(path)}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            wrong.append(f"the list of files of {label} cannot be read")
    for name in filter(is_verified, files_of(folder)):
        suffix = PurePosixPath(name).suffix.lower()
        if name not in named and suffix in (*_WEIGHTS, *_CODE) and not _is_of(trusted, name):
            wrong.append(f"{name} belongs to no target")
    if folder == targets.get(CHECKPOINT):
        wrong += code_faults(folder, trusted)
    if wrong:
        return Finding(False, "; ".join(wrong) + "; remove it, or compile or export again", wrong)
    return Finding(True, f"every weight and every piece of code belongs to {', '.join(inside)}", None)


def _named(path: Path) -> Iterator[str]:
    """What a target says that it is made of."""
    kind = kind_of(path)
    if kind == CHECKPOINT:
        yield from set(_json(path / WEIGHTS_INDEX)["weight_map"].values())
        base = _json(path / "config.json")["steering"]["base"]
        yield from checkpoint_code(stock_classes(base["model_type"], base["architecture"]))
    elif kind is not None:
        yield from _json(path / TARGETS[kind])["files"]


def _is_of(trusted: Path | None, name: str) -> bool:
    """Whether it is code of a base that its user trusts; what is in it is compared elsewhere."""
    return trusted is not None and name.endswith(".py") and (trusted / name).is_file()


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
