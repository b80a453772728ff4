"""Readers of public data schemas, one file each, and the entry point that asks the registry for them.

A reader turns one record into rows. Columns it does not need are left alone, for public sets gain columns
over time; the ones it needs are checked, and all bad records are reported together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from exporter.data.fields import Fields
from exporter.data.identity import identified
from exporter.data.pictures import PictureStore
from exporter.data.readers.base import Reader
from exporter.data.readers.records import is_place, open_records
from exporter.data.rows import ROLES, read_rows
from exporter.data.shapes import looks_like, shape_of
from exporter.errors import InputErrors
from exporter.registry import READERS, resolve
from exporter.types import Role, Row

FORMATS = ("rows", *READERS)


def load_rows(
    source: str | Path,
    *,
    format: str = "rows",  # noqa: A002 - the word recipes use
    role: Role | None = None,
    split: str | None = None,
    name: str | None = None,
    limit: int | None = None,
    image_dir: Path | None = None,
) -> list[Row]:
    """Rows from a file, a folder or a data set of the Hub.

    Args:
        source: a local file (``.jsonl``, ``.json``, ``.csv``, ``.tsv``, ``.parquet``), a folder (saved by ``datasets``
            or full of such files), or a name that ``datasets.load_dataset`` knows.
        format: ``rows`` for the library's own rows, otherwise a public schema.
        role: given to every row of a public schema, which says nothing of roles (GSM8K is ``reasoning`` by
            default). Of the library's own rows it is given to those that name none, and of the others only rows
            of that role are kept.
        split: split of a data set; may be left out where there is one.
        name: configuration of a data set of the Hub.
        limit: keep the first so many rows; records after them are not looked at.
        image_dir: where images that come inside the records are written as files.

    Raises:
        InputErrors: every bad record by number and why, an unknown format, or nothing to read.
    """
    problems = list(_request_problems(format, role, limit))
    if problems:
        raise InputErrors(str(source), problems)
    if format == "rows":
        return _own_rows(source, role, split, name, limit, image_dir)
    reader = resolve(READERS, "reader", format)()
    chosen = role or reader.default_role
    if chosen is None:
        raise InputErrors(
            str(source), [f"format {format} has no roles; set role to one of {', '.join(ROLES)}"]
        )
    return _read(reader, format, source, chosen, split, name, limit, image_dir)


def _request_problems(chosen: str, role: str | None, limit: int | None) -> list[str]:
    problems = []
    if chosen not in FORMATS:
        problems.append(f"unknown format {chosen!r}; valid formats: {', '.join(FORMATS)}")
    if role is not None and role not in ROLES:
        problems.append(f"unknown role {role!r}; valid roles: {', '.join(ROLES)}")
    if limit is not None and limit < 1:
        problems.append(f"limit must be at least 1, received {limit}")
    return problems


def _own_rows(
    source: str | Path,
    role: Role | None,
    split: str | None,
    name: str | None,
    limit: int | None,
    image_dir: Path | None,
) -> list[Row]:
    path = Path(source)
    records = None
    if not path.is_file() and (path.is_dir() or not is_place(source)):
        records = open_records(source, split=split, name=name)
    elif split is not None or name is not None:
        raise InputErrors(str(path), ["split and name are for data sets; a file of rows has neither"])
    found = read_rows(path, role=role, records=records, image_dir=image_dir)
    rows = [row for row in found if role in (None, row.role)]
    if not rows:
        raise InputErrors(str(path), [f"contains no row of role {role}"])
    return rows[:limit]


def _read(
    reader: Reader,
    chosen: str,
    source: str | Path,
    role: Role,
    split: str | None,
    name: str | None,
    limit: int | None,
    image_dir: Path | None,
) -> list[Row]:
    records = open_records(source, split=split, name=name)
    pictures = PictureStore(records.folder, image_dir)
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", records.label).strip("-")
    rows: list[Row] = []
    problems: list[str] = []
    bad: list[Mapping[str, object]] = []
    for number, record in records:
        if limit is not None and len(rows) >= limit:
            break
        if isinstance(record, str):
            problems.append(f"record {number}: {record}")
            continue
        fields = Fields(record)
        if (
            record.get("role") in ROLES and shape_of(record) == "rows"
        ):  # its own role would be dropped in silence
            fields.note("role", f"{record['role']!r} is a role of format rows, not of format {chosen}")
        found = reader.rows(fields, f"{stem}-{number}", role, pictures)
        if fields.problems:
            bad.append(record)
            problems += [f"record {number}: {problem}" for problem in fields.problems]
        else:
            rows += [identified(row, row.id) for row in found]
    if not rows and not problems:
        problems.append("contains no records")
    if problems:
        other = None if rows else looks_like(bad, chosen)
        raise InputErrors(str(source), problems if other is None else [other])
    return rows[:limit]
