"""Folders that several test files read: made by the first worker that needs them, under a lock, and never written to afterwards."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder of this name of the whole test run, in which `make` wrote: once, however many workers ask for it.

    Raises:
        FileExistsError: where an earlier `make` failed, whose error is that of the test that asked first.
    """
    base = factory.getbasetemp()
    home = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"shared-{name}"
    with locked(home):
        if not (made := home.with_suffix(".made")).exists():
            home.mkdir()
            make(home)
            made.touch()
    return home


def locked(home: Path) -> FileLock:
    """Held by whoever writes into a shared folder."""
    return FileLock(home.with_suffix(".lock"))
