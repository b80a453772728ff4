"""What a study costs, and what its winner does on the test rows.

    python -m benchmarks.tune_cost RECIPE OUT [--trials 60] [--file benchmarks/results/tune_NAME.json]

Makes the study of ``steerbake tune RECIPE --no-report`` in the empty folder OUT, in this process, then runs the winner over the test rows as ``steerbake
run`` does. The file has the wall and CPU seconds of the study and of each trial, how many of this machine's cores the process had to itself meanwhile
(CPU over wall seconds: a shared machine gives less than it was asked for), the shares of calibration rows of the recipe's own parameters and of the
winner, and the shares of test rows of both.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from exporter import pipeline
from exporter.atomic import write_json
from exporter.pipeline.tune_record import TrialLine
from exporter.recipe import Recipe
from exporter.report import Report

RESULTS = Path(__file__).parent / "results"
SHOWN = ("leakage_either", "fluent_refusal", "retain_identical")


def main() -> None:
    """Makes the study, runs both recipes and writes the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--file", type=Path)
    asked = parser.parse_args()
    if asked.out.exists():
        sys.exit(f"{asked.out} is there already: a study that goes on would be timed in part")
    wall, used = time.monotonic(), time.process_time()
    tuned = pipeline.tune(asked.recipe, trials=asked.trials, folder=asked.out, report=False, progress=False)
    wall, used = time.monotonic() - wall, time.process_time() - used
    record = tuned.record
    by_number = {one.number: one for one in record.trials}
    found: dict[str, Any] = {
        "recipe": record.recipe,
        "method": record.method,
        "trials": len([one for one in record.trials if one.leakage is not None]),
        "refused": len([one for one in record.trials if one.leakage is None]),
        "threads": torch.get_num_threads(),
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(used, 1),
        "cores_had": round(used / wall, 2),
        "trial_cpu_seconds": [one.cpu_seconds for one in record.trials],
        "calibration_rows": record.rows,
        "own": _shares(by_number[0]),
        "winner": {**_shares(by_number[record.winner]), "params": by_number[record.winner].params},
        "generated": record.generated,
    }
    file = asked.file or RESULTS / f"tune_{record.recipe}.json"
    write_json(file, found)
    found["test"] = {
        "own": tested(asked.recipe, asked.out / "own", ["methods.compare=[]"]),
        "winner": tested(tuned.recipe, asked.out / "tuned", ["methods.compare=[]"]),
    }
    write_json(file, found)
    print(json.dumps(found, indent=2))


def tested(recipe: Path, out: Path, changes: Sequence[str]) -> dict[str, object]:
    """The default method's shares of plain test rows, fitted and run by itself."""
    loaded = Recipe.load(recipe, changes)
    pipeline.run(loaded, out, progress=False)
    figures = Report.load(out).models[loaded.methods.default].metrics
    return {name: figures[name].data() for name in SHOWN}


def _shares(one: TrialLine) -> dict[str, object]:
    return {"leak": one.leakage, "kept": one.kept, "fluent": one.fluent, "margin": one.margin}


if __name__ == "__main__":
    main()
