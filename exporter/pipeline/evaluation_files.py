"""What an evaluation writes: evaluation.json, the replies, and the same figures in the schemas of open-unlearning and of the Hub."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from exporter import registry
from exporter.atomic import write_text
from exporter.estimate import Estimate
from exporter.evaluation import open_unlearning
from exporter.evaluation.cases import public_line
from exporter.evaluation.evaluation_file import Evaluation
from exporter.evaluation.report import BASE
from exporter.pipeline.evaluated_figures import Seen, measured
from exporter.publish.evaluations import write_measured
from exporter.publish.measures import STEERED, Line
from exporter.recipe import Recipe

GENERATIONS = "generations.jsonl"


def write_files(out: Path, evaluation: Evaluation, seen: Mapping[str, Seen], recipe: Recipe) -> None:
    """Writes all of it into ``out``; evaluation.json last.

    Args:
        seen: the rows of each model, by its name in the evaluation.
    """
    replies = (reply for one in seen.values() for row in one.rows for reply in row.case.replies)
    write_text(out / GENERATIONS, "".join(json.dumps(public_line(reply)) + "\n" for reply in replies))
    figures = {name: measured(one.metrics) for name, one in evaluation.models.items()}
    for name, some in seen.items():
        open_unlearning.write(out / "open_unlearning" / file_name(name), some.plain, figures[name])
        if name == BASE:
            continue
        lines = [
            Line(registry.metric(metric), {STEERED: one, **_of_base(figures[BASE], metric)})
            for metric, one in figures[name].items()
        ]
        write_measured(
            out / "hub" / file_name(name), lines, recipe.model_dump(mode="json"), evaluation.created
        )
    evaluation.save(out / Evaluation.FILE)


def _of_base(figures: Mapping[str, Estimate], metric: str) -> dict[str, Estimate]:
    return {BASE: figures[metric]} if metric in figures else {}


def file_name(title: str) -> str:
    """A model's name as that of a file or folder."""
    return re.sub(r"[^\w.-]+", "-", title).strip(".-") or "model"
