"""Lists in the cells of a table, where a list has no form of its own: as JSON, as Python prints them, or cut at ``|``."""

from __future__ import annotations

import ast
import json
import re
from textwrap import shorten

_ESCAPE = r"\\(?:[\\'\"abfnrtv]|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U00(?:0[0-9A-Fa-f]|10)[0-9A-Fa-f]{4})"
_QUOTED = rf"""(?:'(?:[^'\\\n]|{_ESCAPE})*'|"(?:[^"\\\n]|{_ESCAPE})*")"""
_NUMBER = r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?"
_ITEM = re.compile(rf"{_QUOTED}|{_NUMBER}")
_ITEMS = re.compile(rf"\s*(?:(?:{_QUOTED}|{_NUMBER})(?:\s*,\s*(?:{_QUOTED}|{_NUMBER}))*\s*,?\s*)?")
_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_OPENED = re.compile(r"(?:[a-z]+\()*(?:[\[{]\s*['\"]|\(\s*(?:'[^']*'|\"[^\"]*\")\s*[,)])")
"""How a list of texts begins that a program printed, with the name of its type perhaps (``array([...])``)."""
_PLAIN_TUPLE = re.compile(rf"\(\s*{_NUMBER}\s*,.*\)", re.DOTALL)


def listed(cell: str) -> list[object]:
    """The list in a cell: JSON, or a list, tuple or set as Python prints it, else cut at ``|``.

    Numbers are texts, as they are written: a table has nothing else.

    Raises:
        ValueError: it is in brackets as a list is, but cannot be read as one; how to write it instead.
    """
    cell = cell.strip()
    if cell.startswith("["):
        try:
            return list(json.loads(cell, parse_int=str, parse_float=str))
        except (ValueError, RecursionError):
            pass
    if (found := printed(cell)) is not None:
        return list(found)
    if is_printed(cell) or _PLAIN_TUPLE.fullmatch(cell) or _is_enclosed(cell):
        raise ValueError(
            f"is in brackets, but is no list of texts in quotes with commas between them: {shorten(cell, 60)}; write it as JSON, "
            '["one", "another"], or as one | another, and a single text with brackets as ["[one]"]'
        )
    return [part.strip() for part in cell.split("|") if part.strip()]


def is_printed(text: str) -> bool:
    """Whether a text begins as a list of texts does that a program printed, whole or not."""
    return _OPENED.match(text.lstrip()) is not None


def printed(text: str) -> list[str] | None:
    """The texts and numbers of a list, tuple or set as Python prints it; None for what is none, or has anything else in it.

    A tuple of numbers alone is none: it may be a place or a range. Two texts side by side, as NumPy prints them, are one text to
    Python, and none here.
    """
    text = text.strip()
    inner = text[1:-1] if text[:1] in _BRACKETS and text[-1:] == _BRACKETS[text[0]] else text
    if not _ITEMS.fullmatch(inner):
        return None
    items = _ITEM.findall(inner)
    quoted = [item for item in items if item[0] in "'\""]
    bare = inner is text and len(quoted) < 2
    if bare or (not quoted and (text[0] != "[" or not items)):
        return [] if text in ("[]", "()") else None
    return [str(ast.literal_eval(item)) if item[0] in "'\"" else item for item in items]


def _is_enclosed(cell: str) -> bool:
    """Whether the bracket that a cell begins with closes at its end; round ones stand around asides."""
    if cell[:1] not in ("[", "{") or cell[-1:] != _BRACKETS[cell[0]]:
        return False
    depth = 0
    for place, char in enumerate(cell):
        depth += (char == cell[0]) - (char == _BRACKETS[cell[0]])
        if depth == 0:
            return place == len(cell) - 1
    return True
