"""What a method has found, written with its base as a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from exporter.targets.checkpoint import compile_checkpoint
from exporter.targets.merged.export import export_merged
from exporter.weight_edit import WeightEdit

if TYPE_CHECKING:
    from exporter.fitted import Fitted


def compiled(base: Path, found: Fitted, out: Path, *, trust_remote_code: bool = False) -> Path:
    """Writes ``out``, steered by a program or with an edit in its weights, whole or not at all; raises CompileError where it cannot be."""
    if isinstance(found, WeightEdit):
        return export_merged(base, found, out, trust_remote_code=trust_remote_code)
    return compile_checkpoint(base, found, out, trust_remote_code=trust_remote_code)
