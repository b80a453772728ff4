"""Ids of rows that bring none: made of what the row says, so that files of one name in two folders are not one file."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from exporter.ledger import digest_of, digest_of_file
from exporter.types import Row


def identified(row: Row, stem: str) -> Row:
    """The row with the id ``stem-DIGEST``, DIGEST of everything in it but its id and its role, images by their bytes."""
    told = {key: value for key, value in asdict(row).items() if key not in ("id", "role")}
    return replace(row, id=f"{stem}-{digest_of(_plain(told))[:8]}")


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return digest_of_file(value) if isinstance(value, Path) else value
