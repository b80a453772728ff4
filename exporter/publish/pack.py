"""A published folder as one file for who does not use the Hub: tar in Zstandard, the same bytes every time.

Order, owners, times and modes are fixed. ``tar --zstd -xf`` reads it too; everything lies in one folder inside.
"""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import zstandard

from exporter.errors import CompileError, VerificationError

LEVEL = 3
"""Weights hardly shrink; a higher level costs time and gains little."""
_CHUNK = 1 << 20
_PACKED = 1 << 14
"""Few bytes at a time: a malicious file may grow ten thousand times as it is unpacked."""


def write_pack(folder: Path, paths: Sequence[str], top: str, out: Path) -> Path:
    """Writes ``out``, whole or not at all.

    Args:
        paths: the files to put in, relative to ``folder``.
        top: the folder inside the archive that holds them.

    Raises:
        CompileError: ``out`` exists.
    """
    if out.exists() or out.is_symlink():
        raise CompileError(f"{out} already exists; give a file that does not exist, or remove it first")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    try:
        # One thread: several cut the input where they like, and the bytes would be others.
        packer = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True, threads=0)
        with (
            partial.open("wb") as raw,
            packer.stream_writer(raw, closefd=False) as packed,
            tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as archive,
        ):
            for path in sorted(paths):
                _add(archive, folder / path, f"{top}/{path}")
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return out


def _add(archive: tarfile.TarFile, path: Path, name: str) -> None:
    with path.open("rb") as file:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = path.stat().st_size, 0o644
        archive.addfile(entry, file)


def read_pack(path: Path, folder: Path) -> list[str]:
    """Unpacks a file into the existing, empty ``folder``; returns the paths of what it held.

    Raises:
        VerificationError: the file is not whole, is no such archive, or holds anything but plain files below one folder.
    """
    seen: dict[str, None] = {}
    tops: set[str] = set()
    try:
        with (
            path.open("rb") as raw,
            _Unpacked(raw) as unpacked,
            tarfile.open(fileobj=unpacked, mode="r|") as archive,
        ):
            for entry in archive:
                top, place = _place(path, entry)
                tops.add(top)
                if place in seen or len(tops) > 1:
                    raise VerificationError(
                        f"{path} contains {entry.name!r} twice, or outside the single folder of a pack; it was not written by steerbake"
                    )
                seen[place] = None
                _extract(archive, entry, folder / place)
            unpacked.finish()
    except (zstandard.ZstdError, tarfile.TarError, EOFError, ValueError) as error:
        raise VerificationError(
            f"{path} is not a complete .tar.zst file ({error}); download it again"
        ) from None
    except OSError as error:
        if error.filename is None or Path(error.filename) != path:
            raise VerificationError(f"{path} cannot be unpacked: {error}") from None
        raise
    if not seen:
        raise VerificationError(f"{path} contains no file")
    return sorted(seen)


class _Unpacked(io.RawIOBase):
    """What a Zstandard file holds; a file that was cut short or changed is an error, not an end."""

    def __init__(self, raw: BinaryIO) -> None:
        self.raw, self.left = raw, memoryview(b"")
        self.unpacker = zstandard.ZstdDecompressor().decompressobj()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.left and not self.unpacker.eof:
            packed = self.raw.read(_PACKED)
            if not packed:
                raise EOFError("it is truncated")
            self.left = memoryview(self.unpacker.decompress(packed))
        count = min(len(buffer), len(self.left))
        buffer[:count], self.left = self.left[:count], self.left[count:]
        return count

    def finish(self) -> None:
        """Reads to the end, where the checksum stands; raises ValueError where anything but padding is left."""
        while rest := self.read(_CHUNK):
            if any(rest):
                raise ValueError("it has data after its end")
        if self.unpacker.unused_data or self.raw.read(1):
            raise ValueError("it has data after its end")


def _place(path: Path, entry: tarfile.TarInfo) -> tuple[str, str]:
    """The outer folder of an entry and its path below it; refuses what could land outside, or is no plain file."""
    name = PurePosixPath(entry.name)
    parts = entry.name.split("/")
    plain = entry.isreg() and not entry.issparse() and len(parts) > 1 and not name.is_absolute()
    if not plain or any(part in ("", ".", "..") or set(part) & set("\\:\0") for part in parts):
        raise VerificationError(
            f"{path} contains {entry.name!r}, which is not a plain file inside one folder; nothing is unpacked"
        )
    return parts[0], "/".join(parts[1:])


def _extract(archive: tarfile.TarFile, entry: tarfile.TarInfo, destination: Path) -> None:
    source = archive.extractfile(entry)
    assert source is not None, "a plain file"
    destination.parent.mkdir(parents=True, exist_ok=True)
    with destination.open("xb") as file:
        shutil.copyfileobj(source, file, _CHUNK)
    if destination.stat().st_size != entry.size:
        raise tarfile.ReadError(f"{entry.name} is truncated")
