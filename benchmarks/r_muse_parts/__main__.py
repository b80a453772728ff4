"""R-MUSE part by part: which gate, target, protection, angle and layer a model still speaks under. Calibration rows alone.

    python -m benchmarks.r_muse_parts [RECIPE] [--out benchmarks/results/r_muse_parts_NAME.json] [--runs FOLDER] [--rows 48]
        [--stages additions papers descent around ideas keyed] [--start KEY] [--around PART ...] [--token FOLDER]
        [--combinations KEY ...]

Programs are put together part by part (:mod:`benchmarks.r_muse_parts.combination`) and tried as a fit tries them
(:mod:`exporter.fitting.trials`); gates and contrasts are fitted once, and states, replies and gates lie in ``--runs``. The file is written after each,
and a combination that it has is not tried again: the same command resumes. ``--start`` is where the descent begins, or what is gone
around, as a row's key or a part of one; ``--around`` names the parts that are changed there; ``--token`` is a steering folder whose gate
stands for that of `keyed`. With ``--combinations`` these alone are tried, where no stage is named.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.r_muse_parts import search
from benchmarks.r_muse_parts.combination import PARTS, Combination
from benchmarks.r_muse_parts.gates import Gates
from benchmarks.r_muse_parts.measure import Meter
from benchmarks.r_muse_parts.parts import Parts
from exporter.atomic import write_json
from exporter.errors import FitError
from exporter.fitting.gates import GatePlan
from exporter.methods.keyed import KeyedParams
from exporter.pipeline.run import Run
from exporter.recipe import Recipe
from steer_modules.checks import ProgramError
from steer_modules.program import SteeringProgram

HOME = Path(__file__).resolve().parents[2]
TESTBED = HOME / "export_configs" / "llava" / "testbed.yaml"
STAGES = ("additions", "papers", "descent", "around", "ideas", "keyed")


def main() -> None:
    """Measures what is missing of the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", nargs="?", type=Path, default=TESTBED)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs") / "r_muse_parts")
    parser.add_argument("--rows", type=int, default=48, help="most rows of either side")
    parser.add_argument("--stages", nargs="+", choices=STAGES)
    parser.add_argument("--combinations", nargs="+", default=(), metavar="KEY")
    parser.add_argument("--start", default="", metavar="KEY")
    parser.add_argument("--around", nargs="+", choices=search.NAMES, default=search.NAMES, metavar="PART")
    parser.add_argument("--token", type=Path, metavar="FOLDER")
    asked = parser.parse_args()
    recipe = Recipe.load(asked.recipe)
    out = asked.out or HOME / "benchmarks" / "results" / f"r_muse_parts_{recipe.name}.json"
    table = Table(recipe, asked.runs / recipe.name, out, asked.rows, asked.token)
    for key in asked.combinations:
        table.measured(Combination.of(key))
    if not asked.combinations or asked.stages:
        table.fill(asked.stages or STAGES, asked.start, asked.around)


class Table:
    """The results of one recipe, in a file that is written after each."""

    def __init__(self, recipe: Recipe, folder: Path, out: Path, rows: int, token: Path | None) -> None:
        context = Run(recipe, folder, progress=False).context()
        count = context.host.num_layers
        self.layers = tuple(sorted({count // 3, count // 2, 2 * count // 3, count - 1}))
        params = KeyedParams.model_validate(recipe.methods.params.get("keyed", {}))
        assert params.subject is not None
        edited = {one for layer in self.layers for one in range(layer, min(layer + 3, count))}
        tables = {"prefill_tokens": params.prefill_tokens, "pairs": params.pairs}
        self.parts = Parts(context, tuple(sorted(edited)), tables)
        given = None if token is None else SteeringProgram.load(token).gates[0]
        self.gates = Gates(self.parts, folder / "gates", GatePlan(), params.subject, given)
        self.meter = Meter(context, self.parts.wordings, rows)
        self.out, self.found = out, _read(out)
        self.found.setdefault("recipe", recipe.name)
        self.found.setdefault("layers", count)
        self.found.setdefault(
            "rows", {"forget": len(self.meter.bench.forget), "keep": len(self.meter.bench.keep)}
        )
        self.found.setdefault("base", self.meter.base())
        self.rows: dict[str, Any] = self.found.setdefault("combinations", {})

    def fill(self, stages: Sequence[str], start: str, around: Sequence[str]) -> None:
        """Runs the stages in their order; the best is where the cheapest descent ends."""
        first = Combination.of(start) if start else None
        if "additions" in stages:
            search.additions(self.layers, self.measured)
        if "papers" in stages:
            search.papers(self.layers, self.measured)
        if "descent" in stages:
            starts = [first] if first else self._starts()
            ends = [search.descent(one, self.layers, self.measured) for one in starts]
            first = min(ends, key=lambda one: search.cost(self.measured(one)))
            self.found["best"] = first.key
        if "around" in stages:
            center = first or Combination.of(self.found["best"])
            self.found["around"] = center.key
            search.around(center, self.layers, self.measured, around)
            for one in search.steps(center):
                self.measured(one)
        if "ideas" in stages:
            for one in search.ideas(first or Combination.of(self.found["around"]), self.layers):
                self.measured(one)
        if "keyed" in stages:
            for one in search.keyed(self.layers[-1], self.layers):
                self.measured(one)
        write_json(self.out, self.found)

    def measured(self, one: Combination) -> search.Figures | None:
        """The figures of a combination, measured where the file has none."""
        if one.key not in self.rows:
            self.rows[one.key] = self._tried(one)
            write_json(self.out, self.found)
            print(one.key, json.dumps(self.rows[one.key]), flush=True)
        figures: dict[str, Any] = self.rows[one.key]
        return None if "failed" in figures else figures

    def _tried(self, one: Combination) -> dict[str, object]:
        begun = time.process_time()
        try:
            figures = self.meter.of(self.parts.program(one, self.gates.at(one.gate, one.layer)))
        except (FitError, ProgramError) as error:
            return {"failed": " ".join(str(error).split())}
        return {**figures, "seconds": round(time.process_time() - begun, 1)}

    def _starts(self) -> list[Combination]:
        """The cheapest of the paper's rotations behind a calibrated gate, without protection and with each target.

        The gate alone keeps kept replies; a descent under protection ends where no other part can undo what it costs.
        """
        tried = [Combination(layer, "prompt_end") for layer in self.layers]
        cheapest = min(tried, key=lambda one: search.cost(self.measured(one)))
        return [replace(cheapest, target=str(target), protect="none") for target in PARTS["target"]]


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


if __name__ == "__main__":
    main()
