"""The commands that are killed, and what must hold after each kill: nothing there, or all of it."""

from __future__ import annotations

import hashlib
import shutil
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from hub_server import HubServer
from hub_store import Repository

from exporter import cli
from exporter.errors import SteerbakeError
from exporter.inspection import examine
from exporter.pipeline import check, inspect
from exporter.publish import provenance
from exporter.publish.files import is_verified
from exporter.publish.provenance import tag_of

UNCHANGED, WHOLE, HALF = "unchanged", "whole", "half"


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file, by path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def command(*arguments: object) -> None:
    """One ``steerbake`` command, as the console script runs it; raises SystemExit with its code."""
    sys.argv = ["steerbake", *map(str, arguments)]
    cli.main()


class Trial(ABC):
    """One command on its own place, which is new for every trial."""

    name: str
    refusal: tuple[str, ...] = ()
    """What the same command must say where it refuses because the work is done already; empty where it must not refuse."""

    @abstractmethod
    def work(self) -> Any:
        """The command."""

    @abstractmethod
    def state(self) -> str:
        """What it left: UNCHANGED, WHOLE or HALF."""

    def leftovers(self) -> list[str]:
        """What is there besides the result, once the same command has succeeded."""
        return []

    @abstractmethod
    def clear(self) -> None:
        """Makes room."""


class FolderTrial(Trial):
    """A command that writes a folder.

    Args:
        source: folder that it reads, and must not touch.
        out: folder that it writes.
    """

    refusal = ("already exists", "remove it first")

    def __init__(self, source: Path, out: Path) -> None:
        self.source, self.out = source, out
        self.before = digests(source)

    def state(self) -> str:
        if digests(self.source) != self.before:
            return HALF
        if not self.out.exists():
            return UNCHANGED
        try:
            return WHOLE if self.is_whole() else HALF
        except (SteerbakeError, OSError, ValueError):
            return HALF

    @abstractmethod
    def is_whole(self) -> bool:
        """Whether the folder that is there is all of it."""

    def leftovers(self) -> list[str]:
        return [path.name for path in self.out.parent.iterdir() if path != self.out]

    def clear(self) -> None:
        shutil.rmtree(self.out.parent, ignore_errors=True)


class Compile(FolderTrial):
    """``steerbake compile``: every byte of the folder must be that of a run that nobody disturbed."""

    name = "compile"

    def __init__(self, base: Path, steering: Path, out: Path, wanted: dict[str, str]) -> None:
        super().__init__(base, out)
        self.steering, self.wanted = steering, wanted

    def work(self) -> None:
        command("compile", self.source, self.steering, self.out)

    def is_whole(self) -> bool:
        inspect(self.out)
        return digests(self.out) == self.wanted


class Export(FolderTrial):
    """``steerbake export onnx``: the folder must be the one that its own manifest signs, with the checkpoint's program."""

    name = "export onnx"

    def work(self) -> None:
        command("export", "onnx", self.source, self.out)

    def is_whole(self) -> bool:
        return inspect(self.out).program.sha256 == examine(self.source).program.sha256


class Push(Trial):
    """``steerbake push``: the repository must hold what it held, or all of the release as it is described for it.

    Args:
        release: what is pushed; of a copy, for the command writes the card for where it goes.
        place: where the copy lies.
        over: whether the repository holds an earlier release with files that have to go.
    """

    name = "push"

    def __init__(self, hub: HubServer, release: Path, place: Path, repository: str, over: bool) -> None:
        self.hub, self.folder, self.repository = hub, place / "release", repository
        shutil.copytree(release, self.folder)
        self.verified = {path: sha for path, sha in digests(release).items() if is_verified(path)}
        hub.store.blobs.clear()  # or only the first trial would send any
        hub.parts.clear()
        if over:
            hub.store.create(repository, private=False).write(
                {"model.safetensors": b"unsteered", "README.md": b"an earlier card"}
            )
        self.before = self._held()

    def work(self) -> None:
        command("push", self.folder, self.repository)

    def state(self) -> str:
        time.sleep(0.2)  # a request that was under way may still be served
        held, found, ours = self._held(), self._found(), digests(self.folder)
        if not self.verified.items() <= ours.items():
            return HALF
        if found is not None and any(found.files(tag) != ours for tag in found.tags):
            return HALF
        return UNCHANGED if held in (self.before, {}) else WHOLE if held == ours else HALF

    def _found(self) -> Repository | None:
        return self.hub.store.repositories.get(self.repository)

    def _held(self) -> dict[str, str]:
        found = self._found()
        return {} if found is None else found.files()

    def leftovers(self) -> list[str]:
        found = self._found()
        tag = tag_of(provenance.load(self.folder)["files"])
        missing = found is None or set(found.tags) != {tag}
        return [*check(self.folder).problems, *([f"no tag {tag}"] if missing else [])]

    def clear(self) -> None:
        self.hub.store.repositories.pop(self.repository, None)
        shutil.rmtree(self.folder.parent)
