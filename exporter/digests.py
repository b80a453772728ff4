"""What bytes are, in one number: SHA-256 of files and of plain data."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

CHUNK = 1 << 20
SETTLED = 2.0
"""Seconds since a file was changed, from which on another change would show in its times: they are as coarse as a second or two on some disks."""
_KNOWN: dict[tuple[int, ...], str] = {}
_MOST = 1 << 16


def digest_of(value: object) -> str:
    """Hex SHA-256 of plain data as canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest_of_bytes(content: bytes) -> str:
    """Hex SHA-256 of bytes."""
    return hashlib.sha256(content).hexdigest()


def digest_of_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read again: verification never uses cached digests."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@dataclass(frozen=True)
class FileDigests:
    """Hex SHA-256 of files of a folder from one reading, passed on within one command.

    A value, not a cache: its time of reading is known, and files are read once more before an upload.
    """

    folder: Path
    files: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path, paths: Iterable[str]) -> FileDigests:
        """Reads the files of these paths, with slashes."""
        return cls(folder, {path: digest_of_file(folder / path) for path in paths})

    def of(self, path: Path) -> str:
        """The digest of a file; read now where this reading did not have it."""
        known = None
        if path.is_relative_to(self.folder):
            known = self.files.get(path.relative_to(self.folder).as_posix())
        return known or digest_of_file(path)


def remembered_digest(path: Path) -> str:
    """The same for a file that is read often and not used in verification: images of rows, and weights that a record names.

    Read again unless device, inode, size and both times are those of the last reading, and the file had rested for ``SETTLED`` seconds then.
    A write through a mapping that was open before may go unseen.

    Raises:
        OSError: it cannot be read.
    """
    before = _stamp(path)
    if (known := _KNOWN.get(before)) is not None:
        return known
    begun, digest = time.time(), digest_of_file(path)
    if _stamp(path) == before and begun - max(before[-2:]) / 1e9 >= SETTLED:
        if len(_KNOWN) >= _MOST:
            _KNOWN.clear()
        _KNOWN[before] = digest
    return digest


def _stamp(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
