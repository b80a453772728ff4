"""What every process but the main one does of a run: it trains along, and writes nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path

from exporter.digests import digest_of
from exporter.pipeline.run import Run
from exporter.recipe import Recipe
from exporter.workspace import Workspace


def train_along(recipe: Recipe, out: Path) -> None:
    """The trainings that the main process does of a recipe: those whose results do not lie in ``out`` already.

    Rows, replies and examples are made here anew, in a folder that is gone afterwards, and are the same.
    """
    main = Workspace(out.resolve())
    methods = [name for name in recipe.methods.names if recipe.yields(name) == "edit"]
    with tempfile.TemporaryDirectory(prefix="steerbake-") as place:
        work = Run(recipe, Path(place) / "run", progress=False)
        for method in methods:
            key = digest_of(work.fit_inputs(method))
            if not main.ledger.is_fresh(f"fit-{method}", key, main.fitted(method)):
                work.fit(method)
