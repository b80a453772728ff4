"""`python -m benchmarks.fit_cost RECIPE OUT`: what a fit costs beside the forward passes that it needs.

Counts every column that the base computes during the fit of the default method (collecting, its own replies, trials, the canary), and
the CPU time within those passes; the rest of the fit's CPU time is searching and learning. `columns_again` are those of sequences whose
very columns, with the same columns before them, had been run before. Writes benchmarks/results/fit_cost_NAME.json.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from exporter.pipeline.run import Run
from exporter.recipe import Recipe

RESULTS = Path(__file__).parent / "results"


class Counter:
    """Columns and CPU seconds of a model's passes, by hooks."""

    def __init__(self, model: Any) -> None:
        self.passes = self.columns = self.again = 0
        self.seconds = self._begun = 0.0
        self._seen: set[tuple[int, ...]] = set()
        model.register_forward_pre_hook(self._before, with_kwargs=True)
        model.register_forward_hook(self._after)

    def _before(self, _model: Any, args: Any, kwargs: Any) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        cached = any(hasattr(value, "get_seq_length") and value.get_seq_length() for value in kwargs.values())
        self.passes += 1
        self.columns += ids.numel()
        if not cached:
            for row in ids.tolist():
                self.again += len(row) if tuple(row) in self._seen else 0
                self._seen.add(tuple(row))
        self._begun = time.process_time()

    def _after(self, *_: Any) -> None:
        self.seconds += time.process_time() - self._begun


def main() -> None:
    """Fit the recipe's default method in an empty folder and write what it cost."""
    recipe, out = Recipe.load(Path(sys.argv[1])), Path(sys.argv[2])
    work = Run(recipe, out, progress=False)
    counter = Counter(work.host.model.base_model)
    begun = time.process_time()
    work.fit(recipe.methods.default)
    whole = time.process_time() - begun
    results = {
        "recipe": recipe.name,
        "dtype": recipe.base.dtype,
        "fit_cpu_seconds": round(whole, 1),
        "passes_cpu_seconds": round(counter.seconds, 1),
        "fit_over_passes": round(whole / counter.seconds, 2),
        "passes": counter.passes,
        "columns": counter.columns,
        "columns_again": counter.again,
    }
    (RESULTS / f"fit_cost_{recipe.name}.json").write_text(
        json.dumps(results, indent=1) + "\n", encoding="utf-8"
    )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
