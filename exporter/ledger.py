"""Which stage of a run was made from what, so that the same command resumes and a changed key redoes only what it must."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from exporter.atomic import remove, write_json
from exporter.digests import digest_of, digest_of_file, remembered_digest

LOG = logging.getLogger(__name__)
_VERIFICATION = "verification.json"


def contents(value: object) -> object:
    """A value with lists for tuples and digests for paths, at any depth: plain data that tells files apart by their bytes."""
    if isinstance(value, dict):
        return {key: contents(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [contents(inner) for inner in value]
    return digest_of_file(value) if isinstance(value, Path) else value


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
        write_json(self._path(stage), {"inputs": key, "output": _state(output)})
        return True

    def is_fresh(self, stage: str, key: str, output: Path) -> bool:
        """Whether the stage was done from these inputs and its output is as the stage left it."""
        record = self._record(stage)
        return record.get("inputs") == key and output.exists() and record.get("output") == _state(output)

    def _path(self, stage: str) -> Path:
        return self.folder / f"{stage}.json"

    def _record(self, stage: str) -> dict[str, object]:
        try:
            record = json.loads(self._path(stage).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}


def _state(output: Path) -> dict[str, str]:
    """Digest of each file of an output, by path; what ``verify`` wrote into it afterwards is no part of it."""
    if output.is_file():
        return {output.name: remembered_digest(output)}
    files = (path for path in sorted(output.rglob("*")) if path.is_file() and path.name != _VERIFICATION)
    return {path.relative_to(output).as_posix(): remembered_digest(path) for path in files}
