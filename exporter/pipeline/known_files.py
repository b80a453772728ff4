"""Whether every weight and every piece of code in a folder belongs to a target that is verified."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import steer_modules
from exporter.ledger import digest_of_file
from exporter.publish.files import CHECKPOINT, TARGETS, files_of, is_verified, kind_of
from exporter.verify.strict import Finding
from steer_modules.files import TRAVELLING, WEIGHTS_INDEX
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


def known_files(folder: Path, targets: Mapping[str, Path]) -> Finding:
    """Weights that no target names may be unsteered, and code that is not this library's may do anything.

    Args:
        targets: label and place of what is verified.
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
        if name not in named and (suffix in _WEIGHTS or suffix in _CODE):
            wrong.append(f"{name} belongs to no target")
    if folder == targets.get(CHECKPOINT):
        wrong += _other_code(folder)
    if wrong:
        return Finding(False, "; ".join(wrong) + "; remove it, or compile or export again", wrong)
    return Finding(True, f"every weight and every piece of code belongs to {', '.join(inside)}", None)


def _named(path: Path) -> Iterator[str]:
    """What a target says that it is made of."""
    kind = kind_of(path)
    if kind == CHECKPOINT:
        yield from set(_json(path / WEIGHTS_INDEX)["weight_map"].values())
        yield from _code(path)
    elif kind is not None:
        yield from _json(path / TARGETS[kind])["files"]


def _code(checkpoint: Path) -> dict[str, str | None]:
    """The code of a steered checkpoint by its name, as this version writes it; None for files that are copied as they are."""
    config = _json(checkpoint / "config.json")
    base = config["steering"]["base"]
    stock = stock_classes(base["model_type"], base["architecture"])
    return {**dict.fromkeys(TRAVELLING), f"{stock.module_name}.py": stock.source()}


def _other_code(checkpoint: Path) -> list[str]:
    """Code that is not what this version writes."""
    home = Path(steer_modules.__file__).parent
    wrong = []
    try:
        code = _code(checkpoint)
    except (OSError, ValueError, KeyError, TypeError):
        return ["the base that config.json names is not known here"]
    for name, source in code.items():
        path = checkpoint / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif source is None:
            same = digest_of_file(path) == digest_of_file(home / name)
            wrong += [] if same else [f"{name} is not the code of this version of steerbake"]
        elif path.read_text(encoding="utf-8", errors="replace") != source:
            wrong.append(f"{name} is not the code of this version of steerbake")
    return wrong


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
