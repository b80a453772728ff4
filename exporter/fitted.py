"""What a method has found, read back from its folder: a steering program, or a weight edit."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from exporter.methods.base import Yields
from exporter.weight_edit import EditManifest, WeightEdit
from steer_modules.program import STEERING_JSON, SteeringProgram

Fitted: TypeAlias = SteeringProgram | WeightEdit


def yields_of(folder: Path) -> Yields | None:
    """Which kind lies in a folder that a fit wrote; None for another folder."""
    if (folder / EditManifest.FILE).is_file():
        return "edit"
    return "program" if (folder / STEERING_JSON).is_file() else None


def read_fitted(folder: Path) -> Fitted:
    """The result of a fit, whole.

    Raises:
        ProgramError, VerificationError: the folder holds neither, or it was changed.
    """
    return WeightEdit.load(folder) if yields_of(folder) == "edit" else SteeringProgram.load(folder)
