"""A model's folder as it may be read: JSON that is what it must be, and no file reached through a link out of the folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from exporter.errors import CompileError

LARGEST_JSON = 100_000_000
"""Bytes; safetensors bounds its own headers by as many."""


def leaves(path: Path, folder: Path) -> bool:
    """Whether a path leads out of a folder.

    In a snapshot of the Hub's cache, links lead to the ``blobs`` of the same repository, and are no way out.
    """
    real, home = path.resolve(), folder.resolve()
    homes = [home]
    if home.parent.name == "snapshots":
        homes.append(home.parent.parent / "blobs")
    return not any(real.is_relative_to(one) for one in homes)


def read_object(path: Path, *, strict: bool = True) -> dict[str, Any]:
    """The JSON object in a file; raises CompileError for anything else (:func:`parsed_object`)."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError(f"it has more than {LARGEST_JSON:,} bytes")
        found = parsed_object(path.read_bytes(), strict=strict)
        json.dumps(found, ensure_ascii=False).encode("utf-8")  # half a surrogate pair cannot be written again
        return found
    except (OSError, ValueError) as error:
        raise CompileError(f"{path} cannot be read: {error}; download the model again") from error


def parsed_object(text: bytes, *, strict: bool = True) -> dict[str, Any]:
    """A JSON object in UTF-8; raises ValueError for what is none, or is nested without end.

    Args:
        strict: raise for a key that stands twice and for NaN too; without it, what Python's own reader makes of them, as Transformers does.
    """
    rules: dict[str, Any] = {"object_pairs_hook": _without_twins, "parse_constant": _no_constant}
    try:
        found = json.loads(text.decode("utf-8"), **(rules if strict else {}))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError(f"it contains a JSON {type(found).__name__}, not an object")
    return found


def inner(value: object) -> Iterator[tuple[str, object]]:
    """Every key of a JSON value with its dotted path, however deep, and what stands there."""
    waiting: list[tuple[str, object]] = [("", value)]
    while waiting:
        place, one = waiting.pop()
        if place:
            yield place, one
        pairs = one.items() if isinstance(one, dict) else enumerate(one) if isinstance(one, list) else ()
        waiting += [(f"{place}.{key}" if place else str(key), below) for key, below in pairs]


def _without_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
