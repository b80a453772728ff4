"""The library's own rows: one object a line of JSON lines (or of a JSON list, a table, a Parquet file), read whole or not at all.

Keys are the fields of :class:`exporter.types.Row`; ``question``, ``answer`` and ``role`` are required, and ``id`` is made of the row's
content where it is left out. Image paths are relative to the file that names them. ``history`` is a list of ``{question, answer?,
reasoning?, image?}``. In a table, lists (``secrets``, ``paraphrases``) are read as :mod:`exporter.data.cells` says, and there is no ``history``.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from string import ascii_uppercase
from typing import Any, cast, get_args

from exporter import renamed
from exporter.data.cells import listed
from exporter.data.fields import Fields
from exporter.data.files import TABLES, counted_in, read_file
from exporter.data.identity import identified
from exporter.data.pictures import PictureStore, why_unreadable
from exporter.data.shapes import looks_like
from exporter.errors import InputErrors
from exporter.renamed import with_current_names
from exporter.types import Role, Row, Turn

ROLES: tuple[Role, ...] = get_args(Role)
ROW_KEYS = tuple(field.name for field in dataclasses.fields(Row))
COLUMNS = (*ROW_KEYS, *renamed.ROW_KEYS)
MEASURED = ("options", "paraphrased_answers", "perturbed_answers", "derived_secrets")
"""What is read of a row where a model is measured, and by no fit."""
LISTS = ("secrets", "paraphrases", *MEASURED)
Records = Iterable[tuple[int, Mapping[str, object] | str]]
TURN_KEYS = tuple(field.name for field in dataclasses.fields(Turn))


def read_rows(
    path: str | Path,
    *,
    role: Role | None = None,
    records: Records | None = None,
    image_dir: Path | None = None,
) -> list[Row]:
    """Read a file of rows: JSON lines, a JSON list (``.json``), a table (``.csv``, ``.tsv``) or ``.parquet``.

    Args:
        role: of rows that name none.
        records: read instead of the file's own, with their numbers.
        image_dir: where images that come inside the records are written as files.

    Raises:
        InputErrors: every bad line by number and why, the file cannot be read, or it holds no row.
    """
    path = Path(path)
    checks = lru_cache(maxsize=None)(why_unreadable)
    pictures = PictureStore(path.parent, image_dir)
    rows: list[Row] = []
    problems: list[str] = []
    first_lines: dict[str, int] = {}
    unit = counted_in(path)
    bad: list[Mapping[str, object]] = []
    for number, record in read_file(path) if records is None else records:
        if isinstance(record, str):
            problems.append(f"{unit} {number}: {record}")
            continue
        fields = _fields(record, path)
        if path.suffix.lower() in TABLES and fields.has("history"):
            fields.note("history", "cannot be given in a table; write these rows as JSON lines")
        row = _row(fields, path.parent, role, pictures)
        for key, image in [
            ("image", row.image),
            *((f"history[{i}].image", t.image) for i, t in enumerate(row.history)),
        ]:
            if image is not None and (problem := checks(image)) is not None:
                fields.note(key, problem)
        if not row.id and not fields.problems:
            row = identified(row, f"{path.stem}-{number}")
        if row.id and first_lines.setdefault(row.id, number) != number:
            fields.note("id", f"{row.id!r} is already used in {unit} {first_lines[row.id]}")
        if fields.problems:
            bad.append(fields.record)
        problems += [f"{unit} {number}: {problem}" for problem in fields.problems]
        rows.append(row)
    if not rows and not problems:
        problems.append("contains no rows")
    if problems:
        other = looks_like(bad, "rows") if len(bad) == len(rows) > 0 else None
        raise InputErrors(str(path), problems if other is None else [other])
    return rows


def write_rows(path: str | Path, rows: Sequence[Row]) -> None:
    """Write rows so that :func:`read_rows` gives them back; fields left at their defaults are left out.

    Images are not copied: their paths are rewritten to be relative to ``path``'s folder.
    """
    path = Path(path)
    lines = [json.dumps(as_record(row, path.parent), ensure_ascii=False) + "\n" for row in rows]
    path.write_bytes("".join(lines).encode("utf-8"))  # encoded first: a bad text leaves the old file


def _fields(record: Mapping[str, object], path: Path) -> Fields:
    """A record under the names that its keys have today."""
    wrong: dict[str, str] = {}
    if path.suffix.lower() in TABLES:
        record, wrong = _from_cells(record)
    try:
        fields = Fields(with_current_names(record, renamed.ROW_KEYS, str(path)))
    except ValueError as error:
        fields = Fields({name: value for name, value in record.items() if name not in renamed.ROW_KEYS})
        fields.problems.append(str(error))
    for key, problem in wrong.items():
        fields.note(key, problem)
    return fields


def _from_cells(record: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """A line of a table as a row, names of columns in any case; and what is wrong with the lists in its cells, by column."""
    known = {name: name.strip().casefold() for name in record if name.strip().casefold() in COLUMNS}
    found = {
        known.get(name, name): value.strip() if isinstance(value, str) else value
        for name, value in record.items()
    }
    wrong: dict[str, str] = {}
    for key in LISTS:
        if isinstance(found.get(key), str):
            try:
                found[key] = listed(found[key])
            except ValueError as error:
                found[key], wrong[key] = None, str(error)
    return found, wrong


def _row(fields: Fields, folder: Path, given: Role | None, pictures: PictureStore) -> Row:
    fields.refuse_unknown(ROW_KEYS)
    role = fields.text("role").strip().lower() if fields.has("role") or given is None else given
    for secret in fields.texts("secrets"):
        if secret.strip() and not any(letter.isalnum() for letter in secret):
            fields.note(
                "secrets", f"{secret!r} contains no letter or digit, so a leak of it could not be detected"
            )
    if role and role not in ROLES:
        fields.note("role", f"{role!r} is not a role; valid roles: {', '.join(ROLES)}")
    letters = ascii_uppercase[: len(fields.texts("options"))]
    if letters and fields.record.get("answer") not in list(letters):
        fields.note("answer", f"must be the letter of one of the options: {', '.join(letters)}")
    return Row(
        id=fields.optional_text("id") or "",
        question=fields.text("question"),
        answer=fields.text("answer"),
        role=cast(Role, role),
        image=_inside(fields, pictures) if _brings_image(fields) else _image(fields, folder),
        reasoning=fields.optional_text("reasoning"),
        secrets=fields.texts("secrets"),
        paraphrases=fields.texts("paraphrases"),
        history=tuple(_turn(turn, folder) for turn in fields.nested("history")),
        prefix=fields.optional_text("prefix"),
        eval_slice=fields.optional_text("eval_slice"),
        template_id=fields.optional_text("template_id"),
        system=fields.optional_text("system"),
        made=fields.flag("made"),
        **{key: fields.texts(key) for key in MEASURED},
    )


def _turn(fields: Fields, folder: Path) -> Turn:
    fields.refuse_unknown(TURN_KEYS)
    answer, reasoning = fields.optional_text("answer"), fields.optional_text("reasoning")
    if reasoning is not None and answer is None:
        fields.note("reasoning", "has no answer; give both, or neither if the model generates the answer")
    return Turn(fields.text("question"), answer, reasoning, _image(fields, folder))


def _brings_image(fields: Fields) -> bool:
    """Whether the image is no path, but comes inside the record as Parquet files have it."""
    return isinstance(fields.record.get("image"), Mapping | bytes)


def _inside(fields: Fields, pictures: PictureStore) -> Path | None:
    try:
        return pictures.keep(fields.record["image"])
    except ValueError as error:
        fields.note("image", str(error))
        return None


def _image(fields: Fields, folder: Path) -> Path | None:
    name = fields.optional_text("image")
    if name is not None and "\0" in name:
        fields.note("image", "contains a null character")
        return None
    return folder / name if name else None


def as_record(value: Row | Turn, folder: Path) -> dict[str, object]:
    """The object that a file in ``folder`` has for a row, without what is left at its default."""
    found: dict[str, object] = {}
    for field in dataclasses.fields(value):
        content = getattr(value, field.name)
        if content == field.default:
            continue
        if isinstance(content, Path):
            content = Path(os.path.relpath(content, folder)).as_posix()
        elif field.name == "history":
            content = [as_record(turn, folder) for turn in content]
        found[field.name] = content
    return found
