"""Rows as a caller has them: values, objects with the keys of rows, or a file; all held to what a file of rows is held to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from exporter.data.rows import as_record, read_rows
from exporter.types import Row

RowsLike = Sequence[Row | Mapping[str, object]] | str | Path


def rows_of(given: RowsLike, name: str) -> list[Row]:
    """The rows; paths of images in objects are relative to the working directory.

    Args:
        name: what an error calls them.

    Raises:
        InputErrors: every bad row by its number and why.
    """
    if isinstance(given, str | Path):
        return read_rows(given)
    here = Path.cwd()
    records = [as_record(one, here) if isinstance(one, Row) else one for one in given]
    if not records:
        return []
    return read_rows(here / name, records=enumerate(records, start=1))


def absolute(row: Row) -> Row:
    """The row with the paths of its images from the root of the file system."""
    history = tuple(replace(turn, image=turn.image and turn.image.absolute()) for turn in row.history)
    return replace(row, image=row.image and row.image.absolute(), history=history)
