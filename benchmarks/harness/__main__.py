"""Puts lm-evaluation-harness to an exact checkpoint and to its base: a forget task and a retain task, by likelihood and by reply.

    python -m benchmarks.harness BASE CHECKPOINT RECIPE --out FILE [--limit 40] [--python PYTHON]

The harness (lm-eval 0.4.13 or later) loads CHECKPOINT with ``--model hf`` and ``trust_remote_code=True``, as anyone's benchmark would,
and BASE as it is; each with and without ``--apply_chat_template``. The documents are RECIPE's plain test rows in text: ``choice``
lets the model choose among four replies by one pass each, ``reply`` lets it write one. It runs in an environment of its own
under .cache/harness, made on first use, unless PYTHON has lm_eval already.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness.documents import write_documents
from exporter.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".cache" / "harness"
TASKS = Path(__file__).parent / "tasks"
NAMES = tuple(sorted(path.stem for path in TASKS.glob("*.yaml")))
NEEDED = "lm-eval>=0.4.13"


def interpreter() -> Path:
    """A Python that has lm_eval and whatever this one has; made where there is none."""
    python = HOME / "bin" / "python"
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(HOME)], check=True)
        here = sysconfig.get_path("purelib")
        (there,) = HOME.glob("lib/python*/site-packages")
        (there / "installed.pth").write_text(f"{here}\n", encoding="utf-8")
        constraints = str(ROOT / "constraints.txt")
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "-c", constraints, NEEDED], check=True
        )
    return python


def evaluated(
    python: Path, model: Path, work: Path, *, trust: bool, template: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """Metrics by task, and versions, of one run of the harness."""
    arguments = f"pretrained={model.resolve()},dtype=float32"
    command = [str(python), "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu", "--batch_size", "4"]
    command += ["--model_args", arguments + (",trust_remote_code=True" if trust else "")]
    command += ["--include_path", str(TASKS), "--tasks", *NAMES]
    command += ["--apply_chat_template"] if template else []
    with tempfile.TemporaryDirectory(dir=work) as name:
        quiet = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(Path(name) / "hub"), "OMP_NUM_THREADS": "1"}
        environment = {**os.environ, **quiet, "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
        environment.pop("PYTHONPATH", None)
        done = subprocess.run(
            [*command, "--output_path", f"{name}/out"],
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"lm_eval ended with {done.returncode}:\n{done.stderr[-3000:]}")
        (path,) = Path(name).rglob("results_*.json")
        found = json.loads(path.read_text(encoding="utf-8"))
    versions = {"lm_eval": str(found["lm_eval_version"]), "transformers": str(found["transformers_version"])}
    results = {
        task: {
            metric.partition(",")[0]: value for metric, value in metrics.items() if metric.endswith(",none")
        }
        for task, metrics in found["results"].items()
    }
    return results, versions


def table(found: Mapping[str, Any]) -> str:
    """In Markdown."""
    lines = [["task", "chat template", "documents", "measure", "base", "steered"], ["---"] * 6]
    for setting, models in found["results"].items():
        for task in NAMES:
            for metric, value in models["base"][task].items():
                if metric.endswith("_stderr"):
                    continue
                count = str(found["documents"][task.split("_")[1]])
                values = [f"{one:.3f}" for one in (value, models["steered"][task][metric])]
                lines.append([task.removeprefix("steerbake_"), setting, count, metric, *values])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--limit", type=int, default=40, help="documents of each role, at most")
    parser.add_argument("--python", type=Path, help="a Python that has lm_eval")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    python = options.python or interpreter()
    found: dict[str, Any] = {"what": "lm-evaluation-harness on base and exact checkpoint", "results": {}}
    with tempfile.TemporaryDirectory(prefix="harness-") as name:
        work = Path(name)
        recipe = Recipe.load(options.recipe)
        found |= {"recipe": recipe.name, "documents": write_documents(recipe, work, options.limit)}
        for setting, template in (("with", True), ("without", False)):
            found["results"][setting] = {}
            for model, folder in (("base", options.base), ("steered", options.checkpoint)):
                results, found["versions"] = evaluated(
                    python, folder, work, trust=model == "steered", template=template
                )
                found["results"][setting][model] = results
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
