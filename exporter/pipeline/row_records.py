"""What is found of rows one by one, on disk as soon as it is found: JSON lines under keys, which a killed command goes on with."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from pydantic import JsonValue

from exporter.digests import digest_of


class RowRecords:
    """One file of ``{"key", "found", "sha256"}`` a line; of one key the last line counts.

    The key says all that decides what is found (files of the model, row, settings), so a line of other inputs is left alone and
    never taken for one of these. A line that was cut short is removed, and one whose digest is not that of its key and content, or which is
    not of the form of what is kept here, is left out: what it was of is found again. The digest tells damage and careless edits; it is no seal.

    Args:
        path: the file; made, with its folder, at the first line that is added.
        reads: makes of a value what it stands for; raises LookupError, TypeError or ValueError where it is none of this file's.
    """

    def __init__(self, path: Path, reads: Callable[[JsonValue], object]) -> None:
        self.path, self._reads = path, reads
        self.found: dict[str, JsonValue] = {}
        self._read()

    def __contains__(self, key: object) -> bool:
        return key in self.found

    def __getitem__(self, key: str) -> JsonValue:
        return self.found[key]

    def missing(self, keys: Collection[str]) -> set[str]:
        """Those of which nothing is known yet."""
        return {key for key in keys if key not in self.found}

    def add(self, found: Mapping[str, JsonValue]) -> None:
        """Writes what was found under these keys, and returns when it is on the disk."""
        for value in found.values():
            self._reads(value)
        lines = [
            json.dumps({"key": key, "found": value, "sha256": digest_of([key, value])}) + "\n"
            for key, value in found.items()
        ]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write("".join(lines).encode())
            file.flush()
            os.fsync(file.fileno())
        self.found.update(found)

    def _read(self) -> None:
        if not self.path.is_file():
            return
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        self.found = dict(filter(None, map(self._entry, whole.split(b"\n"))))

    def _entry(self, line: bytes) -> tuple[str, JsonValue] | None:
        """Key and value of a line; None for one that is damaged, or not ours."""
        try:
            fields = json.loads(line)
            key, value = fields["key"], fields["found"]
            if not isinstance(key, str) or fields["sha256"] != digest_of([key, value]):
                return None
            self._reads(value)
        except (ValueError, LookupError, TypeError, RecursionError):
            return None
        return key, value
