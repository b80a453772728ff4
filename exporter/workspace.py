"""The folder of one run: whose it is, where everything lies, and which stage was made from what."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from exporter.atomic import write_bytes, write_text
from exporter.digests import digest_of_file
from exporter.errors import CompileError
from exporter.ledger import Ledger
from exporter.types import Row


@dataclass(frozen=True)
class Workspace:
    """``OUT``: results on top, and in ``OUT/.work`` what lets the same command resume."""

    out: Path

    @classmethod
    def claim(cls, out: Path, recipe: str, file: Path | None = None) -> Workspace:
        """The folder for a recipe's run, made if missing.

        Args:
            recipe: its name.
            file: where it was read from; another recipe of the same name is another recipe.

        Raises:
            CompileError: it holds something that is no run, or the run of another recipe.
        """
        space = cls(out.resolve())
        if problem := cls.objection(out, recipe, file):
            raise CompileError(problem)
        record = {"recipe": recipe} if file is None else {"recipe": recipe, "file": space._from_here(file)}
        if space._claimed() != record:
            write_text(space.owner, json.dumps(record) + "\n")
        return space

    @classmethod
    def objection(cls, out: Path, recipe: str, file: Path | None = None) -> str | None:
        """Why a folder cannot be that of a recipe's run; None where it can."""
        space = cls(out.resolve())
        if not space.owner.is_file():
            if out.exists() and (not out.is_dir() or any(path != space.work for path in space.out.iterdir())):
                return f"{out} exists and is not the folder of a run; give a new folder with --out"
            return None
        found = space._claimed()
        if found.get("recipe") != recipe:
            return f"{out} contains a run of the recipe {found.get('recipe')!r}, not of {recipe!r}; give another folder with --out"
        before = found.get("file")
        if file is not None and isinstance(before, str):
            first = (space.out / before).resolve()
            # A recipe that was moved leaves no file behind, and goes on with its run.
            if first.is_file() and first != file.resolve():
                return f"{out} contains a run of {first}, which also has the name {recipe!r}; give another folder with --out"
        return None

    def _from_here(self, file: Path) -> str:
        """A file's path from this folder, so that both may be moved together."""
        return Path(os.path.relpath(file.resolve(), self.out)).as_posix()

    def _claimed(self) -> dict[str, object]:
        """Whose run this is; empty where that cannot be read."""
        try:
            found = json.loads(self.owner.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def work(self) -> Path:
        return self.out / ".work"

    @property
    def owner(self) -> Path:
        return self.work / "run.json"

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.work / "stages")

    def fitted(self, method: str) -> Path:
        """Folder of what a method has found: a steering program, or an edit."""
        return self.out / "steering" / method

    def records(self, method: str) -> Path:
        """Tables that a method's fit left for the report."""
        return self.work / method / "fit.json"

    def checkpoint(self, method: str, default: str) -> Path:
        """Folder of a compiled model; the default's is the result."""
        return self.out / "checkpoint" if method == default else self.out / "models" / method

    def generations(self, model: str) -> Path:
        """What one model said."""
        return self.work / "generations" / f"{model}.jsonl"

    def extraction(self, model: str) -> Path:
        """What one pass over the base's replies gives away of one model."""
        return self.work / "extraction" / f"{model}.json"

    def scores(self, method: str) -> Path:
        """Gate scores of calibration and test rows."""
        return self.work / "scores" / f"{method}.json"

    @property
    def plots(self) -> Path:
        return self.out / "plots"

    def with_images(self, rows: Iterable[Row]) -> list[Row]:
        """The rows with their images copied to ``OUT/images``, where a reader of the report finds them."""
        folder = self.out / "images"
        folder.mkdir(exist_ok=True)
        return [
            replace(
                row,
                image=_copied(row.image, folder),
                history=tuple(replace(turn, image=_copied(turn.image, folder)) for turn in row.history),
            )
            for row in rows
        ]


def _copied(image: Path | None, folder: Path) -> Path | None:
    """A file of the same bytes in ``folder``, named by them too: images of one name in several folders are not one image."""
    if image is None:
        return None
    target = folder / f"{image.stem}-{digest_of_file(image)[:8]}{image.suffix}"
    if not target.exists():
        write_bytes(target, image.read_bytes())
    return target
