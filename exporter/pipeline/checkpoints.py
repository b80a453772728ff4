"""Checkpoints without a recipe: of a base and a program, or of an older checkpoint."""

from __future__ import annotations

from pathlib import Path

from exporter import registry
from exporter.atomic import refuse_existing
from exporter.fitted import Fitted
from exporter.foreign_code import refuse_code
from exporter.inspection import examine
from exporter.pipeline.bases import with_safetensors
from exporter.pipeline.compiled import compiled
from exporter.pipeline.older import program_for, upgrade_checkpoint
from exporter.weight_edit import EditManifest, WeightEdit
from steer_modules.program import SteeringProgram


def compile(  # noqa: A001 - the command's name
    base: Path, steering: Path | SteeringProgram | WeightEdit, out: Path, *, trust_remote_code: bool = False
) -> Path:
    """Write the checkpoint ``out`` of ``base`` changed by a steering program, by a weight edit, or by that in the folder ``steering``."""
    refuse_code(base, trusted=trust_remote_code)
    refuse_existing(out)
    with with_safetensors(base, out.absolute().parent) as plain:
        found = _found(plain, steering) if isinstance(steering, Path) else steering
        return compiled(plain, found, out, trust_remote_code=trust_remote_code)


def _found(base: Path, folder: Path) -> Fitted:
    """What a fit has left in a folder; an older program in today's format."""
    return WeightEdit.load(folder) if (folder / EditManifest.FILE).is_file() else program_for(base, folder)


def reach_note(checkpoint: Path) -> str | None:
    """What a user must know of a program whose gates all decide at generation headers; None where one reads every token."""
    if registry.kind_of(checkpoint) != registry.REFERENCE:
        return None
    gates = examine(checkpoint).program.gates
    if not gates or any(gate.pool == "token" for gate in gates):
        return None
    return (
        "note: every gate decides at generation headers, so text without the chat template is not steered; method `keyed` fits a gate "
        "without this limit"
    )


def upgrade(checkpoint: Path, out: Path) -> Path:
    """Write the checkpoint ``out`` with the base and the steering of an older one, in today's format."""
    return upgrade_checkpoint(checkpoint, out)
