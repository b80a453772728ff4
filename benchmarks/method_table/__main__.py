"""Every method on one recipe: what it costs, what it ships, what it forgets and keeps on the test rows.

    python -m benchmarks.method_table [RECIPE] [--methods A B ...] [--attack ROWS] [--evaluate ROWS] [--runs FOLDER]
        [--out benchmarks/results/methods.json]

Each method is run by itself, as ``steerbake run RECIPE --set methods.default=NAME --set 'methods.compare=[]'`` would, at its default parameters; a
method that searches does so on calibration rows. The file is written after each, and a method that it has is not run again: the same command
resumes. By default the bundled testbed, every method in the registry, and what people do without (:mod:`benchmarks.method_table.baselines`). A method
may be given parameters, for ablations: ``r_muse:protect=none,spans=answer``.

Of each method:

- ``seconds``: of CPU, of fit, compile and report together, children included; on a shared machine more than what the work takes.
- ``bytes``: of what is shipped beside the base: steering program or adapter.
- ``leak``, ``fluent``, ``retain``: shares of test rows, plain questions, with their 95% intervals and rows.
- with ``--attack ROWS`` and ``--evaluate ROWS``, what :mod:`benchmarks.method_table.further` measures on so many rows.
- ``failed``: why a method found nothing; then there is nothing else.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
from pathlib import Path

from benchmarks.method_table import further
from benchmarks.method_table.baselines import BASELINES
from exporter import pipeline, registry
from exporter.atomic import write_json
from exporter.errors import SteerbakeError
from exporter.evaluation.case import is_ordinary
from exporter.evaluation.measures import measures
from exporter.evaluation.report import BASE
from exporter.pipeline.run import Run
from exporter.recipe import Recipe
from exporter.report import Report
from exporter.workspace import Workspace

HOME = Path(__file__).resolve().parents[2]
TESTBED = HOME / "export_configs" / "llava" / "testbed.yaml"
SHOWN = {"leak": "leakage_either", "fluent": "fluent_refusal", "retain": "retain_identical"}
METADATA = ("steering.json", "weight_edit.json")


def main() -> None:
    """Runs what is missing of the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", nargs="?", type=Path, default=TESTBED)
    parser.add_argument("--methods", nargs="+", default=[*BASELINES, *registry.METHODS])
    parser.add_argument("--attack", type=int, default=0, metavar="ROWS")
    parser.add_argument("--evaluate", type=int, default=0, metavar="ROWS")
    parser.add_argument("--runs", type=Path, default=Path("runs") / "methods")
    parser.add_argument("--out", type=Path, default=HOME / "benchmarks" / "results" / "methods.json")
    asked = parser.parse_args()
    found = json.loads(asked.out.read_text(encoding="utf-8")) if asked.out.is_file() else {}
    for method in asked.methods:
        if method not in found:
            out = asked.runs / re.sub(r"[^\w.-]+", "-", method)
            if method in BASELINES:
                found[method] = unsteered(asked.recipe, method, out)
            else:
                found[method] = measured(asked.recipe, method, out, asked.attack, asked.evaluate)
            write_json(asked.out, found)
            print(method, json.dumps(found[method]), flush=True)


def measured(recipe: Path, method: str, out: Path, attack: int = 0, evaluate: int = 0) -> dict[str, object]:
    """One method, run by itself; then attacked and evaluated on so many rows."""
    name, _, params = method.partition(":")
    changes = [f"methods.default={name}", "methods.compare=[]"]
    changes += [f"methods.params.{name}.{one}" for one in params.split(",") if one]
    before = _cpu_seconds()
    loaded = Recipe.load(recipe, changes)
    try:
        pipeline.run(loaded, out, progress=False)
    except SteerbakeError as error:
        return {"failed": str(error).splitlines()[0], "seconds": round(_cpu_seconds() - before, 1)}
    fitted = Workspace(out.resolve()).fitted(name)
    figures = Report.load(out).models[name].metrics
    seconds = round(_cpu_seconds() - before, 1)
    return {
        "seconds": seconds,
        "bytes": sum(path.stat().st_size for path in fitted.iterdir() if path.name not in METADATA),
        **{name: figures[key].data() for name, key in SHOWN.items()},
        **(further.attacked(loaded, out, attack) if attack else {}),
        **(further.measured(loaded, out, evaluate) if evaluate else {}),
    }


def unsteered(recipe: Path, name: str, out: Path) -> dict[str, object]:
    """What the base leaks and keeps as people use it without unlearning; the figures of :func:`measured` but for what is shipped."""
    before = _cpu_seconds()
    work = Run(Recipe.load(recipe, ["methods.compare=[]"]), out, progress=False)
    try:
        cases = BASELINES[name](work)
    except SteerbakeError as error:
        return {"failed": str(error).splitlines()[0], "seconds": round(_cpu_seconds() - before, 1)}
    base = {case.row.id: case for case in work.generate(BASE)}
    figures = measures([case for case in cases if is_ordinary(case)], base, work.rule())
    return {
        "seconds": round(_cpu_seconds() - before, 1),
        "bytes": 0,
        **{name: figures[key].as_dict("n") for name, key in SHOWN.items()},
    }


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    main()
