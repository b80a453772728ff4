"""The run whose rows a folder is measured on."""

from __future__ import annotations

from pathlib import Path

from exporter.pipeline.run import Run
from exporter.recipe import Recipe


def run_of(recipe: Recipe, folder: Path, run: Path | None) -> Run:
    """The recipe's run, which lies around a staged release."""
    beside = folder.resolve().parent
    default = beside if (beside / ".work" / "run.json").is_file() else Path("runs") / recipe.name
    return Run(recipe, run or default, progress=False)
