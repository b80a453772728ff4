"""``.eval_results/steerbake.yaml``: the measures in the form in which the Hub reads results from a model's repository.

The Hub files a result under a benchmark, a dataset repository that it knows. Test rows that are a publisher's own belong to none;
their results are filed under the name of the model's repository, which the Hub leaves aside and any other reader can use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from exporter.atomic import write_text
from exporter.publish.files import RESULTS
from exporter.publish.measures import BASE, STEERED, Line, Results

HUB = "https://huggingface.co"
_DECIMALS = 6


@dataclass(frozen=True)
class Source:
    """Where results come from.

    Attributes:
        repo_id: the model's repository; ``revision`` is the one that the results are of.
        dataset: the dataset repository that the test rows are from; None for rows of the publisher's own.
        created: ISO 8601 time of the measurement.
    """

    repo_id: str
    revision: str
    dataset: str | None
    created: str | None


def write_results(folder: Path, results: Results | None, source: Source | None) -> Path | None:
    """Write the file, or remove an old one where nothing was measured or there is no repository; returns its path."""
    path = folder / RESULTS
    if results is None or source is None:
        path.unlink(missing_ok=True)
        return None
    from huggingface_hub import eval_result_entries_to_yaml

    entries = list(_entries(results, source))
    text = yaml.safe_dump(
        eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True, width=120
    )
    write_text(path, text)
    return path


def dataset_of(recipe: Mapping[str, Any]) -> str | None:
    """The one dataset repository that a recipe's test rows are from; None where there is none, or several."""
    sources = (recipe.get("data") or {}).get("test") or []
    names = {source.get("dataset") if isinstance(source, Mapping) else None for source in sources}
    name = next(iter(names)) if len(names) == 1 else None
    return str(name) if name and "/" in str(name) else None


def _entries(results: Results, source: Source) -> Iterator[Any]:
    """An EvalResultEntry for each measure of the steered model."""
    from huggingface_hub import EvalResultEntry

    for line in results.lines:
        ours = line.models.get(STEERED)
        if ours is None or not ours.n or line.metric.is_few(ours):  # a figure of too few rows is not filed
            continue
        yield EvalResultEntry(
            dataset_id=source.dataset or source.repo_id,
            task_id=line.name,
            value=round(ours.value, _DECIMALS),
            date=source.created,
            source_url=f"{HUB}/{source.repo_id}/blob/{source.revision}/verification.json",
            source_name="verification.json",
            notes=_notes(line),
        )


def _notes(line: Line) -> str:
    ours, base, metric = line.models[STEERED], line.models.get(BASE), line.metric
    about = f"{metric.about}: " if metric.about else ""
    what = "share" if line.is_share else "mean"
    parts = [
        f"{about}{metric.words.says}; {what} of {ours.n} rows, 95% interval {ours.low:.4f} to {ours.high:.4f}"
    ]
    if base is not None and base.n:
        parts.append(f"the base: {base.value:.4f}")
    if metric.better:
        parts.append(f"{metric.better} is better")
    return "; ".join(parts)
