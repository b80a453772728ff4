"""Rows asked in the other words that they bring, with names of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from exporter.evaluation.metrics.measured import PARAPHRASE
from exporter.types import Row


def with_paraphrases(rows: Sequence[Row]) -> list[Row]:
    """The rows, and behind them the plain ones in the other words that they bring, as the slice ``paraphrase``."""
    plain = [
        row
        for row in rows
        if row.prefix is None and not row.history and row.eval_slice is None and not row.options
    ]
    asked, used = {row.question for row in rows}, {row.id for row in rows}
    more = [
        replace(
            row,
            id=_free(f"{row.id}~{number}", used),
            question=question,
            paraphrases=(),
            eval_slice=PARAPHRASE,
        )
        for row in plain
        for number, question in enumerate(row.paraphrases, start=1)
        if question not in asked
    ]
    return [*rows, *more]


def _free(name: str, used: set[str]) -> str:
    """The name, longer where a row has it already; it is used from then on."""
    while name in used:
        name += "~"
    used.add(name)
    return name
