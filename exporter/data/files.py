"""Records of a local file with their numbers: JSON lines, a JSON list, CSV or Parquet; an invalid record is returned as a string with the reason."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path

from exporter.data.fields import described
from exporter.errors import InputErrors

Numbered = Iterator[tuple[int, Mapping[str, object] | str]]
TABLES = (".csv", ".tsv")
SUFFIXES = (".jsonl", ".json", *TABLES, ".parquet")
_BOM = b"\xef\xbb\xbf"
_SEPARATORS = ",;\t"
_LONGEST_CELL = 1 << 30


def read_file(path: Path) -> Numbered:
    """(number from 1, the record or what is wrong with it) for every record of a file.

    Numbers are lines of JSON lines and CSV, and count the records of a list or of Parquet.

    Raises:
        InputErrors: the file cannot be read, or does not match its suffix.
    """
    if path.suffix.lower() in TABLES:
        yield from _table(path)
    elif path.suffix.lower() == ".parquet":
        yield from _parquet(path)
    else:
        yield from _json(path)


def counted_in(path: Path) -> str:
    """What :func:`read_file` counts in a file."""
    return "record" if path.suffix.lower() in (".json", ".parquet") else "line"


def _content(path: Path) -> bytes:
    """The bytes of a text file in UTF-8, without the mark that some programs put before them."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputErrors(str(path), [f"cannot be read: {error.strerror or error}"]) from error
    if content[:2] in (b"\xff\xfe", b"\xfe\xff") or content[:400].count(b"\0") > len(content[:400]) // 4 > 0:
        raise InputErrors(str(path), ["is UTF-16; save it as UTF-8 (a spreadsheet: CSV UTF-8)"])
    return content.removeprefix(_BOM)


def _json(path: Path) -> Numbered:
    """A list of objects; otherwise JSON lines, which public sets also ship under ``.json``."""
    content = _content(path)
    if content.lstrip()[:1] == b"[":
        yield from _list(path, content)
        return
    if path.suffix.lower() == ".json":
        whole = _parsed(content)
        if isinstance(whole, dict):  # one object over many lines
            yield 1, whole
            return
        if whole is not None:
            raise InputErrors(str(path), [f"must be a list of objects, received {described(whole)}"])
    # Split at line feeds only: str.splitlines also breaks at characters that may stand inside a JSON text.
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            yield number, _decoded(line)


def _list(path: Path, content: bytes) -> Numbered:
    try:
        whole = json.loads(content.decode("utf-8"), object_pairs_hook=_without_repeats)
    except UnicodeDecodeError as error:
        raise InputErrors(str(path), [f"is not UTF-8 (byte {error.start + 1}); save it as UTF-8"]) from error
    except json.JSONDecodeError as error:
        problem = f"is not JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        raise InputErrors(str(path), [problem]) from error
    except (ValueError, RecursionError) as error:
        raise InputErrors(str(path), [f"cannot be parsed as JSON: {error}"]) from error
    for number, one in enumerate(whole, start=1):
        yield number, one if isinstance(one, dict) else f"must be an object, received {described(one)}"


def _parsed(content: bytes) -> object:
    """The JSON value of a whole file; None where it is none, but perhaps JSON lines."""
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError):
        return None


def _decoded(line: bytes) -> Mapping[str, object] | str:
    try:
        value = json.loads(line.decode("utf-8"), object_pairs_hook=_without_repeats)
    except UnicodeDecodeError as error:
        return f"is not UTF-8 (byte {error.start + 1})"
    except json.JSONDecodeError as error:
        return f"is not JSON: {error.msg} (column {error.colno})"
    except (ValueError, RecursionError) as error:
        return f"cannot be parsed as JSON: {error}"
    return value if isinstance(value, dict) else f"must be an object, received {described(value)}"


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(
            f"key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice in one object"
        )
    return found


def _table(path: Path) -> Numbered:
    """A table with a header; an empty cell is a key that is not there."""
    try:
        text = _content(path).decode("utf-8")
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 (byte {error.start + 1}); save it as CSV UTF-8"
        raise InputErrors(str(path), [problem]) from error
    first = text.partition("\n")[0]
    separator = "\t" if path.suffix.lower() == ".tsv" else max(_SEPARATORS, key=first.count)
    csv.field_size_limit(_LONGEST_CELL)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        header = [cell.strip() for cell in next(lines, [])]
        _check_header(path, header)
        for cells in lines:
            if any(cell.strip() for cell in cells):
                yield lines.line_num, _named(header, cells)
    except csv.Error as error:
        yield (
            lines.line_num,
            f"is not CSV: {error}; quote cells that contain quotes or line breaks, and double the quotes inside them",
        )


def _check_header(path: Path, header: Sequence[str]) -> None:
    if not any(header):
        raise InputErrors(
            str(path),
            ["has no header; the first line must name the columns, for example question,answer,role"],
        )
    if problems := [
        f"the header names {name!r} twice" for name in sorted({*header}) if header.count(name) > 1
    ]:
        raise InputErrors(str(path), problems)


def _named(header: Sequence[str], cells: Sequence[str]) -> Mapping[str, object] | str:
    if len(cells) > len(header):
        return f"has {len(cells)} cells, the header has {len(header)}; quote cells that contain the separator"
    return {name: cell if cell.strip() else None for name, cell in zip(header, cells, strict=False) if name}


def _parquet(path: Path) -> Numbered:
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError as error:
        raise InputErrors(
            str(path), ["reading Parquet files needs pyarrow: pip install 'steerbake[hub]'"]
        ) from error
    try:
        batches = parquet.ParquetFile(path).iter_batches(batch_size=64)
        yield from enumerate((record for batch in batches for record in batch.to_pylist()), start=1)
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise InputErrors(str(path), [f"is not a readable Parquet file: {error}"]) from error
