"""Which rows of many: single questions, evenly spread, of one side alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from exporter.evaluation.attacks.base import is_plain
from exporter.types import Row

T = TypeVar("T")


def plain(rows: Sequence[Row]) -> list[Row]:
    """Rows that are a single question."""
    return list(filter(is_plain, rows))


def spread(rows: Sequence[Row], most: int) -> list[Row]:
    """At most ``most`` rows, evenly spread over their order."""
    return evenly(rows, most)


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most ``most`` of the items, evenly spread over their order."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / max(most - 1, 1))] for i in range(most)]


def of_one_side(rows: Sequence[Row]) -> list[Row]:
    """Rows without the kept ones that have earlier turns and share a secret with a row to forget: those turns may be about it."""
    secret = {one for row in rows if row.role == "forget" for one in row.secrets}
    return [
        row for row in rows if row.role == "forget" or not (row.history and secret.intersection(row.secrets))
    ]
