"""Reading back what was written: a steering folder, or the steering in a compiled checkpoint, with its hash checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from exporter.errors import VerificationError
from exporter.onnx_graph import check_steering
from steer_modules.program import STEERING_JSON, STEERING_TENSORS, SteeringProgram

ONNX_MANIFEST = "steerbake.json"


@dataclass(frozen=True)
class Inspection:
    """A program that was found whole.

    Attributes:
        kind: "checkpoint", "steering folder" or "onnx folder".
        section: its JSON object, ``sha256`` included.
        files: name and size in bytes of each file of the folder.
    """

    folder: Path
    kind: str
    program: SteeringProgram
    section: dict[str, Any]
    files: tuple[tuple[str, int], ...]

    def data(self) -> dict[str, Any]:
        """As one JSON object, without the tensors."""
        return {
            "folder": str(self.folder),
            "kind": self.kind,
            "section": self.section,
            "files": dict(self.files),
        }


def examine(folder: Path) -> Inspection:
    """Read a folder's steering program.

    Raises:
        VerificationError: there is none, or its section and tensors are not what its sha256 says.
    """
    if not folder.is_dir():
        raise VerificationError(f"{folder} is not a folder; name a compiled checkpoint or a steering folder")
    kind, section_file = _kind(folder)
    try:
        content = json.loads(section_file.read_text(encoding="utf-8"))
        section = content if kind == "steering folder" else content["steering"]
        tensors = (
            _of_graph(folder, content) if kind == "onnx folder" else load_file(folder / STEERING_TENSORS)
        )
        program = SteeringProgram.parse(section, tensors)
    except FileNotFoundError as error:
        missing = Path(error.filename or str(error)).name
        raise VerificationError(f"{folder} bears no steering: {missing} is missing") from error
    except (KeyError, TypeError) as error:
        raise VerificationError(
            f"{folder} bears no steering: {section_file.name} has no key {error}"
        ) from error
    except (ValueError, SafetensorError, OSError) as error:
        raise VerificationError(f"{folder} is not what it claims to be: {error}") from error
    files = tuple(
        (path.relative_to(folder).as_posix(), path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )
    return Inspection(folder, kind, program, dict(section), files)


def _kind(folder: Path) -> tuple[str, Path]:
    """What a folder is, and the file that bears its section."""
    for kind, name in (("steering folder", STEERING_JSON), ("onnx folder", ONNX_MANIFEST)):
        if (folder / name).is_file():
            return kind, folder / name
    return "checkpoint", folder / "config.json"


def _of_graph(folder: Path, manifest: Any) -> dict[str, Tensor]:
    """The steering tensors that the decoders of an exported folder hold, every variant the same ones.

    Raises:
        GraphError: the graph of a variant does not bear the manifest's program.
    """
    if not manifest["steered"]:
        raise ValueError("it was exported unsteered")
    found: dict[str, Any] = {}
    for files in manifest["variants"].values():
        found = check_steering(folder / files["decoder"], manifest["steering"])
    return {name: torch.from_numpy(values.copy()) for name, values in found.items()}
