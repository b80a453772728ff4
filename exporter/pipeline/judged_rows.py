"""A judge's verdicts on replies, each on the disk as soon as it is given; what it did not judge is asked again by the next command."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from exporter.digests import digest_of
from exporter.evaluation.judges.base import ASPECTS, Judge, Matter, closure, matters
from exporter.evaluation.metrics.base import Evaluated
from exporter.evaluation.row_passes import finite
from exporter.pipeline.row_records import RowRecords
from exporter.progress import progress_bar
from exporter.provenance import digest_of_code
from exporter.types import Row

CODE = ("exporter/evaluation/judges", "exporter/wording")


def judged(
    judge: Judge,
    seen: Sequence[Evaluated],
    rows: Sequence[Row],
    file: Path,
    title: str,
    *,
    is_base: bool,
    aspects: Collection[str] = ASPECTS,
    progress: bool = False,
) -> dict[str, dict[str, float]]:
    """Verdicts by row id and by what was asked; what could not be judged is left out.

    Args:
        rows: all rows of the evaluation: from them follows which words betray a secret.
        is_base: whether these are the base's own replies.
        aspects: what of them is judged.
    """
    records, derived = RowRecords(file, finite), closure(rows)
    asked = [
        one
        for row in seen
        for one in matters(row, derived[row.case.row.id], is_base=is_base)
        if one.aspect in aspects
    ]
    same = [judge.name, digest_of_code(*CODE)]
    found: dict[str, dict[str, float]] = {}
    with progress_bar(progress) as bar:
        task = bar.add_task(f"{title}: judged by {judge.name}", total=len(asked))
        for matter in asked:
            if (verdict := _verdict(judge, matter, records, same)) is not None:
                found.setdefault(matter.case.row.id, {})[matter.aspect] = verdict
            bar.advance(task)
    return found


def _verdict(judge: Judge, matter: Matter, records: RowRecords, same: object) -> float | None:
    if judge.is_quick:
        return judge.verdict(matter)
    key = digest_of([same, _told(matter)])
    if key not in records and (verdict := judge.verdict(matter)) is not None:
        records.add({key: verdict})
    return finite(records[key]) if key in records else None


def _told(matter: Matter) -> object:
    row = matter.case.row
    base = None if matter.base is None else matter.base.last.generation.text
    said = [matter.case.last.generation.text, matter.case.last.reasoning, base]
    return [
        matter.aspect,
        row.question,
        row.answer,
        row.reasoning,
        list(row.secrets),
        list(matter.derived),
        said,
    ]
