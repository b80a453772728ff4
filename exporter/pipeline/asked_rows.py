"""Rows put to a model batch by batch: what it answers is on the disk before the next batch begins, so a killed command goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

from pydantic import JsonValue

from exporter.digests import digest_of
from exporter.evaluation.case import Case
from exporter.evaluation.cases import as_lines, from_lines, replies_of
from exporter.evaluation.conversations import generate_responses
from exporter.ledger import contents
from exporter.pipeline.measured_models import MeasuredModel
from exporter.pipeline.row_records import RowRecords
from exporter.pipeline.run import Run
from exporter.progress import progress_bar
from exporter.provenance import HOST, digest_of_code, target_code, versions
from exporter.types import Row

ANSWERS = ("exporter/data", *HOST, "exporter/evaluation/conversations.py", "steer_modules")
"""Code that decides what a model is asked and how its replies are decoded."""


def replies(file: Path) -> RowRecords:
    """What models have said to rows, in JSON lines that are read once, here."""
    return RowRecords(file, replies_of)


def answered(
    model: MeasuredModel,
    variant: str,
    rows: Sequence[Row],
    work: Run,
    records: RowRecords,
    *,
    max_new_tokens: int | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> list[Case]:
    """What one variant of a model says to rows, in their order; only what ``records`` do not hold yet is asked.

    A batch of which a row is missing is asked whole, so a reply never depends on where an earlier command was killed.

    Args:
        rows: rows that the model reads (:meth:`MeasuredModel.reads`).
        records: of :func:`replies`, added to; answers of other files, rows or settings in them are left alone.
        max_new_tokens, batch_size: the recipe's where None.
    """
    settings = work.recipe.report
    most = settings.max_new_tokens if max_new_tokens is None else max_new_tokens
    batch = settings.batch_size if batch_size is None else batch_size
    title = model.title(variant)
    keys = row_keys(model, variant, rows, work, {"max_new_tokens": most, "batch_size": batch})
    with progress_bar(progress) as bar:
        task = bar.add_task(f"{title}: replies", total=len(rows))
        for some in batches(rows, batch):
            if records.missing([keys[row.id] for row in some]):
                cases = generate_responses(
                    model.opened.generators[variant],
                    some,
                    model.chat(work),
                    name=title,
                    folder=work.space.out,
                    max_new_tokens=most,
                    batch_size=batch,
                )
                records.add({keys[one.row.id]: cast(JsonValue, as_lines(one)) for one in cases})
            bar.advance(task, len(some))
    return [from_lines(row, replies_of(records[keys[row.id]])) for row in rows]


def row_keys(
    model: MeasuredModel, variant: str, rows: Sequence[Row], work: Run, settings: Mapping[str, object]
) -> dict[str, str]:
    """By row id, the digest of all that decides what a model says to it: files, row, settings, code and versions."""
    same = digest_of(
        {
            "files": model.digest,
            "variant": variant,
            "chat": work.recipe.chat.model_dump(),
            "dtype": work.recipe.base.dtype,
            "device": work.device,
            "settings": dict(settings),
            "versions": versions(),
            "code": digest_of_code(*ANSWERS, *target_code()),
        }
    )
    return {row.id: digest_of([same, contents(asdict(row))]) for row in rows}


def batches(rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    """Rows in batches of similar length, the same for every model that is asked these rows."""
    order = sorted(rows, key=_length)
    for first in range(0, len(order), size):
        yield order[first : first + size]


def _length(row: Row) -> tuple[int, int]:
    """Images, and characters of everything that is said before the reply."""
    images = [row.image, *(turn.image for turn in row.history)]
    turns = [text for turn in row.history for text in (turn.question, turn.answer)]
    said = [row.system, row.prefix, row.question, *turns]
    return sum(image is not None for image in images), sum(len(text) for text in said if text)
