"""Whether every weight and every piece of code in a folder belongs to a target that is verified."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from exporter import registry
from exporter.foreign_code import code_faults
from exporter.publish.files import CHECKPOINT, files_of, is_verified
from exporter.targets.values import Finding

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
            kind = registry.kind_of(path)
            named |= (
                set() if kind is None else {prefix + name for name in registry.target(kind).named_files(path)}
            )
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
    return Finding(True, f"every weight and code file belongs to {', '.join(inside)}", None)


def _is_of(trusted: Path | None, name: str) -> bool:
    """Whether it is code of a base that its user trusts; what is in it is compared elsewhere."""
    return trusted is not None and name.endswith(".py") and (trusted / name).is_file()
