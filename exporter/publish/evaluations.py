"""``.eval_results/steerbake.yaml``: the measures in the form in which the Hub reads results from a model's repository.

The Hub files a result under a benchmark, a dataset repository that it knows. Test rows that are a publisher's own belong to none;
their results are filed under the name of the model's repository, which the Hub leaves aside and any other reader can use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from exporter.atomic import write_text
from exporter.publish.files import EVAL_RESULTS, RESULTS
from exporter.publish.measures import BASE, STEERED, Line, Results

HUB = "https://huggingface.co"
EVALUATED = f"{EVAL_RESULTS}/steerbake-evaluation.yaml"
_DECIMALS = 6


@dataclass(frozen=True)
class Source:
    """Where results come from.

    Attributes:
        repo_id: the model's repository; ``revision`` is the one that the results are of. Empty for results that lie in none yet.
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
    _write(path, _entries(results.lines, source))
    return path


def write_measured(
    folder: Path, lines: Sequence[Line], recipe: Mapping[str, Any], created: str | None
) -> Path | None:
    """The same of a model that was measured apart from any repository: the folder is to be copied into the one that holds it.

    Returns:
        The file's path; None where no benchmark can be named: test rows that are of no one dataset, and a recipe without ``publish.repo``.
    """
    dataset = dataset_of(recipe) or (recipe.get("publish") or {}).get("repo")
    if dataset is None:
        return None
    path = folder / EVALUATED
    _write(path, _entries(lines, Source("", "", str(dataset), created)))
    return path


def _write(path: Path, entries: Iterator[Any]) -> None:
    from huggingface_hub import eval_result_entries_to_yaml

    told = eval_result_entries_to_yaml(list(entries))
    write_text(path, yaml.safe_dump(told, sort_keys=False, allow_unicode=True, width=120))


def dataset_of(recipe: Mapping[str, Any]) -> str | None:
    """The one dataset repository that a recipe's test rows are from; None where there is none, or several."""
    sources = (recipe.get("data") or {}).get("test") or []
    names = {source.get("dataset") if isinstance(source, Mapping) else None for source in sources}
    name = next(iter(names)) if len(names) == 1 else None
    return str(name) if name and "/" in str(name) else None


def _entries(lines: Iterable[Line], source: Source) -> Iterator[Any]:
    """An EvalResultEntry for each measure of the steered model."""
    from huggingface_hub import EvalResultEntry

    place = f"{HUB}/{source.repo_id}/blob/{source.revision}/verification.json"
    told = {"source_url": place, "source_name": "verification.json"} if source.repo_id else {}
    for line in lines:
        ours = line.models.get(STEERED)
        if ours is None or not ours.n or line.metric.is_few(ours):  # a figure of too few rows is not filed
            continue
        yield EvalResultEntry(
            dataset_id=source.dataset or source.repo_id,
            task_id=line.name,
            value=round(ours.value, _DECIMALS),
            date=source.created,
            notes=_notes(line),
            **told,
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
