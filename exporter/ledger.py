"""Which stage of a run was made from what, so that the same command resumes and a changed key redoes only what it must."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from exporter.digests import digest_of, digest_of_file, quick_digest

LOG = logging.getLogger(__name__)
_VERIFICATION = "verification.json"


def contents(value: object) -> object:
    """A value with lists for tuples and digests for paths, at any depth: plain data that tells files apart by their bytes."""
    if isinstance(value, dict):
        return {key: contents(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [contents(inner) for inner in value]
    return digest_of_file(value) if isinstance(value, Path) else value


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_of(path)
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def partial_of(path: Path) -> Path:
    """Where a file lies while it is written, and stays if the process is killed then."""
    return path.with_name(f".{path.name}.partial")


def remove(path: Path) -> None:
    """Remove a file or a folder that may not be there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class Ledger:
    """One JSON file per finished stage, holding the digest of its inputs and the state of its output.

    Args:
        folder: where the records are kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(
        self, stage: str, inputs: Mapping[str, object], output: Path, action: Callable[[], object]
    ) -> bool:
        """Do ``action``, which makes the file or folder ``output``, unless it was made before from the same inputs.

        An output of other inputs is removed first. The record is written last: a stage that was cut short is done again.

        Returns:
            Whether the action was done.
        """
        key = digest_of(dict(inputs))
        if self.is_fresh(stage, key, output):
            return False
        LOG.info("%s", stage)
        self._path(stage).unlink(missing_ok=True)
        remove(output)
        output.parent.mkdir(parents=True, exist_ok=True)
        action()
        write_text(self._path(stage), json.dumps({"inputs": key, "output": _state(output)}, indent=1) + "\n")
        return True

    def is_fresh(self, stage: str, key: str, output: Path) -> bool:
        """Whether the stage was done from these inputs and its output is as the stage left it."""
        record = self._record(stage)
        return record.get("inputs") == key and output.exists() and record.get("output") == _state(output)

    def _path(self, stage: str) -> Path:
        return self.folder / f"{stage}.json"

    def _record(self, stage: str) -> dict[str, Any]:
        try:
            record = json.loads(self._path(stage).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}


def _state(output: Path) -> dict[str, str]:
    """Digest of each file of an output, by path; what ``verify`` wrote into it afterwards is no part of it."""
    if output.is_file():
        return {output.name: quick_digest(output)}
    files = (path for path in sorted(output.rglob("*")) if path.is_file() and path.name != _VERIFICATION)
    return {path.relative_to(output).as_posix(): quick_digest(path) for path in files}
