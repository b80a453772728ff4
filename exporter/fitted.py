"""What a method has found, read back from its folder: a steering program, or a weight edit."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from exporter.weight_edit import EditManifest, WeightEdit
from steer_modules.program import SteeringProgram

Fitted: TypeAlias = SteeringProgram | WeightEdit


def read_fitted(folder: Path) -> Fitted:
    """The result of a fit, whole.

    Raises:
        ProgramError, VerificationError: the folder holds neither, or it was changed.
    """
    return WeightEdit.load(folder) if (folder / EditManifest.FILE).is_file() else SteeringProgram.load(folder)
