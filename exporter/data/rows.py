"""The library's own rows as JSONL: one object a line, read whole or not at all.

Keys are the fields of :class:`exporter.types.Row`; ``id``, ``question``, ``answer`` and ``role`` are
required. Image paths are relative to the file that names them. ``history`` is a list of ``{question, answer?,
reasoning?, image?}``.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast, get_args

from exporter.data.fields import Fields, described
from exporter.data.pictures import why_unreadable
from exporter.errors import InputErrors
from exporter.types import Role, Row, Turn

ROLES: tuple[Role, ...] = get_args(Role)
ROW_KEYS = tuple(field.name for field in dataclasses.fields(Row))
TURN_KEYS = tuple(field.name for field in dataclasses.fields(Turn))


def read_rows(path: str | Path) -> list[Row]:
    """Read a JSONL file of rows; blank lines are skipped.

    Raises:
        InputErrors: every bad line by number and why, the file cannot be read, or it holds no row.
    """
    path = Path(path)
    checks = lru_cache(maxsize=None)(why_unreadable)
    rows: list[Row] = []
    problems: list[str] = []
    first_lines: dict[str, int] = {}
    for number, record in read_jsonl(path):
        if isinstance(record, str):
            problems.append(f"line {number}: {record}")
            continue
        fields = Fields(record)
        row = _row(fields, path.parent)
        for key, image in [
            ("image", row.image),
            *((f"history[{i}].image", t.image) for i, t in enumerate(row.history)),
        ]:
            if image is not None and (problem := checks(image)) is not None:
                fields.note(key, problem)
        if row.id and first_lines.setdefault(row.id, number) != number:
            fields.note("id", f"{row.id!r} already stands in line {first_lines[row.id]}")
        problems += [f"line {number}: {problem}" for problem in fields.problems]
        rows.append(row)
    if not rows and not problems:
        problems.append("holds no rows")
    if problems:
        raise InputErrors(str(path), problems)
    return rows


def write_rows(path: str | Path, rows: Sequence[Row]) -> None:
    """Write rows so that :func:`read_rows` gives them back; fields left at their defaults are left out.

    Images are not copied: their paths are rewritten to be relative to ``path``'s folder.
    """
    path = Path(path)
    lines = [json.dumps(_object(row, path.parent), ensure_ascii=False) + "\n" for row in rows]
    path.write_bytes("".join(lines).encode("utf-8"))  # encoded first: a bad text leaves the old file


def read_jsonl(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """(line number from 1, the object or what is wrong with the line) for every line that is not blank.

    Raises:
        InputErrors: the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputErrors(str(path), [f"cannot be read: {error.strerror or error}"]) from error
    # Split at line feeds only: str.splitlines also breaks at characters that may stand inside a JSON text.
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            yield number, _decoded(line)


def _decoded(line: bytes) -> Mapping[str, Any] | str:
    try:
        value = json.loads(line.decode("utf-8"), object_pairs_hook=_without_repeats)
    except UnicodeDecodeError as error:
        return f"is not UTF-8 (byte {error.start + 1})"
    except json.JSONDecodeError as error:
        return f"is not JSON: {error.msg} (column {error.colno})"
    except (ValueError, RecursionError) as error:
        return f"is not usable JSON: {error}"
    return value if isinstance(value, dict) else f"must be an object, received {described(value)}"


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(
            f"key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in one object"
        )
    return found


def _row(fields: Fields, folder: Path) -> Row:
    fields.refuse_unknown(ROW_KEYS)
    role = fields.text("role")
    if role and role not in ROLES:
        fields.note("role", f"{role!r} is not a role; valid roles: {', '.join(ROLES)}")
    return Row(
        id=fields.text("id"),
        question=fields.text("question"),
        answer=fields.text("answer"),
        role=cast(Role, role),
        image=_image(fields, folder),
        reasoning=fields.optional_text("reasoning"),
        secrets=fields.texts("secrets"),
        paraphrases=fields.texts("paraphrases"),
        history=tuple(_turn(turn, folder) for turn in fields.nested("history")),
        prefix=fields.optional_text("prefix"),
        group=fields.optional_text("group"),
        key=fields.optional_text("key"),
        system=fields.optional_text("system"),
        made=fields.flag("made"),
    )


def _turn(fields: Fields, folder: Path) -> Turn:
    fields.refuse_unknown(TURN_KEYS)
    answer, reasoning = fields.optional_text("answer"), fields.optional_text("reasoning")
    if reasoning is not None and answer is None:
        fields.note(
            "reasoning", "stands without an answer; give both, or neither where the model is to answer itself"
        )
    return Turn(fields.text("question"), answer, reasoning, _image(fields, folder))


def _image(fields: Fields, folder: Path) -> Path | None:
    name = fields.optional_text("image")
    if name is not None and "\0" in name:
        fields.note("image", "holds a null character")
        return None
    return folder / name if name else None


def _object(value: Row | Turn, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        content = getattr(value, field.name)
        if content == field.default:
            continue
        if isinstance(content, Path):
            content = Path(os.path.relpath(content, folder)).as_posix()
        elif field.name == "history":
            content = [_object(turn, folder) for turn in content]
        found[field.name] = content
    return found
