"""Forgets a share of TOFU's authors by `keyed`, and measures base, steered and a model that never knew them with open-unlearning's metrics.

    python -m benchmarks.tofu.forget OUT [--split forget05] [--base .cache/smollm2] [--adapter benchmarks/tofu/knows]
        [--without benchmarks/tofu/without_forget05] [--result benchmarks/results/tofu_forget05.json]
        [--replies-alone]

In OUT: the recipe of :mod:`benchmarks.tofu.recipe`, its fit and its checkpoint, and two evaluations (docs/evaluate.md):

- ``held``: on the recipe's test rows, TOFU's paraphrases of three in four forget questions (the fourth is calibrated on), and what is to be kept.
- ``taught``: what the models say to the questions about forgotten authors as they were taught and, for `keyed`, fitted on: TOFU itself
  measures forgetting on those, and a base has to know them for there to be anything to forget.

``--without`` is the adapter of a model that was taught all other authors (``python -m benchmarks.tofu.teach OUT --without forget05``); without that
folder nothing is compared with it, and forget quality has no value. The same command resumes, and takes such a model up once it is there.
``--replies-alone`` leaves out the metrics that force answers on the models, which take most of the time.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.tofu.authors import SPLITS
from benchmarks.tofu.recipe import TAUGHT, add_options, write
from exporter import pipeline
from exporter.adapters import merge
from exporter.atomic import whole_folder, write_json
from exporter.evaluation.evaluation_file import EvaluatedModel
from exporter.provenance import versions
from exporter.recipe import Recipe

QUALITY = "forget_quality"
"""Of a model beside one that never knew."""
SAID = ("leakage_either", "fluent_refusal", "forget_rouge_l", "forget_rouge_l_recall")
"""Of replies alone."""
FORGET = (
    *SAID,
    "forget_probability",
    "answer_extraction_strength",
    "exact_memorisation",
    "forget_truth_ratio",
    QUALITY,
)
KEEP = (
    "retain_identical",
    "retain_rouge_l",
    "retain_rouge_l_recall",
    "retain_probability",
    "retain_truth_ratio",
    "model_utility",
    "reasoning_accuracy",
)
REPLIES = (*SAID, "retain_identical", "retain_rouge_l", "retain_rouge_l_recall", "reasoning_accuracy")
"""Of ``FORGET`` and ``KEEP``, those that count what is said."""
RESULTS = Path(__file__).resolve().parents[1] / "results"
METHOD = "keyed"
RETAIN_ONLY = "retain_only"
"""What the model that never knew the authors is called."""


def measured(
    recipe: Recipe, run: Path, checkpoint: Path, metrics: Sequence[str], never: Path | None
) -> dict[str, Any]:
    """Figures by model and metric, over the test rows of a recipe whose run is in ``run``."""
    request = pipeline.EvaluationRequest(
        run=run,
        retain_model=str(never) if never is not None and QUALITY in metrics else None,
        metrics=[one for one in metrics if never is not None or one != QUALITY],
        progress=True,
    )
    models = [checkpoint, *([] if never is None else [never])]
    found = pipeline.evaluate(models, recipe, request).models
    return {_called(name): _figures(one) for name, one in found.items()}


def _called(name: str) -> str:
    return METHOD if name == "checkpoint" else name


def _figures(one: EvaluatedModel) -> dict[str, Any]:
    return {name: figure.model_dump(exclude_defaults=True) for name, figure in one.metrics.items()}


def retain_only(base: Path, adapter: Path, folder: Path) -> Path | None:
    """The model of an adapter, as a folder of its own; None where there is no such adapter."""
    if not (adapter / "adapter_config.json").is_file():
        return None
    if not folder.exists():
        with whole_folder(folder) as partial:
            merge(base, [adapter], partial)
    return folder


def taught(adapter: Path) -> dict[str, Any]:
    """How an adapter was taught."""
    log = json.loads((adapter / "teaching.json").read_text(encoding="utf-8"))
    stages = [log]
    while stages[0].get("before") is not None:
        stages.insert(0, stages[0]["before"])
    return {
        "questions": log["questions"],
        "epochs": [one["settings"]["epochs"] for one in stages],
        "learning_rates": [one["settings"]["learning_rate"] for one in stages],
        "cpu_seconds": round(sum(one["cpu_seconds"] for one in stages), 1),
        "loss": log["losses"][-1]["loss"],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    add_options(parser)
    parser.add_argument("--without", type=Path)
    parser.add_argument("--result", type=Path)
    parser.add_argument("--replies-alone", action="store_true")
    asked = parser.parse_args(arguments)
    without = asked.without or Path(__file__).parent / f"without_{asked.split}"
    path = write(asked.out / "recipe", asked.split, asked.base, asked.adapter)
    recipe, run = Recipe.load(path), asked.out / "run"
    work = pipeline.Run(recipe, run)
    work.fit(METHOD)
    checkpoint = work.compile(METHOD)
    work.forget_base()
    never = retain_only(asked.base, without, asked.out / RETAIN_ONLY)
    told = {"base": taught(asked.adapter), **({} if never is None else {RETAIN_ONLY: taught(without)})}
    metrics = REPLIES if asked.replies_alone else (*FORGET, *KEEP)
    result = asked.result or RESULTS / f"tofu_{asked.split}.json"
    found: dict[str, Any] = {
        "split": asked.split,
        "authors": SPLITS[asked.split],
        "taught": told,
        "max_new_tokens": recipe.report.max_new_tokens,
        "versions": versions(),
        "held": measured(recipe, run, checkpoint, metrics, never),
    }
    write_json(result, found)  # the other part takes its time
    as_taught = Recipe.load(path.with_name(f"{TAUGHT}.yaml"))
    found["as_taught"] = measured(as_taught, asked.out / TAUGHT, checkpoint, SAID, never)
    write_json(result, found)


if __name__ == "__main__":
    main()
