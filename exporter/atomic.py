"""Files and folders that appear whole or not at all: written to a temporary sibling, then renamed."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exporter.errors import CompileError


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all, in UTF-8; its folder is made where there is none."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all; its folder is made where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_of(path)
    partial.write_bytes(content)
    partial.replace(path)


def write_json(path: Path, value: object, *, indent: int = 1, finite: bool = True) -> None:
    """Writes plain data as JSON, whole or not at all.

    Args:
        finite: refuse numbers that are not, for which JSON has no word; Python's own reader and Transformers' configs have one.

    Raises:
        ValueError: there is such a number; the file that was there stays.
    """
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=not finite) + "\n")


def partial_of(path: Path) -> Path:
    """Where a file lies while it is written, and stays if the process is killed then."""
    return path.with_name(f".{path.name}.partial")


def remove(path: Path) -> None:
    """Removes a file or a folder that may not be there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def whole_folder(destination: Path) -> Iterator[Path]:
    """Yields a temporary sibling that becomes ``destination`` when the block ends well, and vanishes otherwise.

    Leftovers of writers that were killed are removed first. Whoever may read a new file by the umask may read every file of the folder.

    Raises:
        CompileError: the destination exists, even as an empty folder.
    """
    destination = destination.absolute()
    refuse_existing(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    for leftover in destination.parent.glob(f".{destination.name}.partial-*"):
        if not _is_alive(leftover.name.rpartition("-")[2]):
            shutil.rmtree(leftover, ignore_errors=True)
    partial = destination.parent / f".{destination.name}.partial-{os.getpid()}"
    partial.mkdir()
    try:
        yield partial
        for path in partial.rglob("*"):
            if path.is_file():
                _permit(path, stat.S_IMODE(partial.stat().st_mode) & 0o666)
                _sync(path)
        refuse_existing(destination)
        partial.rename(destination)
        _sync(destination.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_existing(destination: Path) -> None:
    """Raises CompileError if the destination exists; it is not changed."""
    if destination.exists() or destination.is_symlink():
        raise CompileError(
            f"{destination} already exists; give a folder that does not exist, or remove it first"
        )


def link_or_copy(source: Path, destination: Path) -> None:
    """Hard link of the real file behind ``source``, or a copy where the file system cannot link."""
    real = source.resolve()
    try:
        os.link(real, destination)
    except OSError:
        shutil.copyfile(real, destination)


def _permit(path: Path, wanted: int) -> None:
    """Adds the permissions that a new file has: libraries write tensors for their owner alone, and so a linked base may be.

    A link shares its permissions with the base's own file, which holds the same bytes; one that is somebody else's becomes a copy.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & wanted == wanted:
        return
    try:
        path.chmod(mode | wanted)
    except OSError:
        copy = path.with_name(f".{path.name}.copy")
        shutil.copyfile(path, copy)
        copy.replace(path)


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return int(pid) != os.getpid()


def _sync(path: Path) -> None:
    """Flushes a file or folder to disk where the system can."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
