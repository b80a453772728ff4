"""Reading back what was written: a steering folder, or the steering in a compiled checkpoint, with its hash checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from exporter import registry
from exporter.errors import VerificationError
from steer_modules.program import STEERING_JSON, STEERING_TENSORS, SteeringProgram

if TYPE_CHECKING:
    from exporter.targets.base import AnyTarget

_PROGRAM = "steering folder"


@dataclass(frozen=True)
class Inspection:
    """A program that was found whole.

    Attributes:
        kind: "steering folder", or what a folder of the target is called that holds it.
        section: its JSON object, ``sha256`` included.
        files: name and size in bytes of each file of the folder.
        notes: what its user should know, a sentence each.
    """

    folder: Path
    kind: str
    program: SteeringProgram
    section: dict[str, Any]
    files: tuple[tuple[str, int], ...]
    notes: tuple[str, ...] = ()

    def data(self) -> dict[str, object]:
        """As one JSON object, without the tensors."""
        return {
            "folder": str(self.folder),
            "kind": self.kind,
            "section": self.section,
            "files": dict(self.files),
            "notes": list(self.notes),
        }


def examine(folder: Path) -> Inspection:
    """Read a folder's steering program.

    Raises:
        VerificationError: there is none, or its section and tensors do not match its sha256.
    """
    if not folder.is_dir():
        raise VerificationError(f"{folder} is not a folder; give a compiled checkpoint or a steering folder")
    holder = None if (folder / STEERING_JSON).is_file() else _holder(folder)
    section_file = folder / (STEERING_JSON if holder is None else holder.marker)
    try:
        content = json.loads(section_file.read_text(encoding="utf-8"))
        section = content if holder is None else content["steering"]
        tensors = (
            load_file(folder / STEERING_TENSORS)
            if holder is None
            else holder.steering_tensors(folder, content)
        )
        program = SteeringProgram.parse(section, tensors)
    except FileNotFoundError as error:
        missing = Path(error.filename or str(error)).name
        raise VerificationError(f"no steering section found in {folder}: {missing} is missing") from error
    except (KeyError, TypeError) as error:
        raise VerificationError(
            f"no steering section found in {folder}: {section_file.name} has no key {error}"
        ) from error
    except (ValueError, SafetensorError, OSError) as error:
        raise VerificationError(f"{folder} is not valid: {error}") from error
    kind = _PROGRAM if holder is None else holder.folder_kind
    files = tuple(
        (path.relative_to(folder).as_posix(), path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )
    return Inspection(folder, kind, program, dict(section), files)


def _holder(folder: Path) -> AnyTarget:
    """The target whose program a folder holds; the checkpoint where it is none, which then says what is missing."""
    others = (one for one in registry.exports().values() if one.holds_program and one.is_at(folder))
    return next(others, registry.target(registry.REFERENCE))
