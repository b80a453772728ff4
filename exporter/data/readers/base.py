"""What a reader of a public schema is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from exporter.data.fields import Fields
from exporter.data.pictures import PictureStore
from exporter.types import Role, Row


class Reader(Protocol):
    """Turns one record of a public data set into rows. A file and a line in the registry are all there is to add."""

    default_role: Role | None
    """The role of rows when none is asked for; None where asking is a must."""

    def rows(self, fields: Fields, identity: str, role: Role, pictures: PictureStore) -> Sequence[Row]:
        """The rows of one record. Problems are noted in ``fields``; the rows then go unused.

        Args:
            fields: the record.
            identity: unique to the record; the id of its only row, or the beginning of the ids of several.
            role: the role of every row.
            pictures: keeps images as files.
        """
        ...


def kept_picture(fields: Fields, key: str, pictures: PictureStore) -> Path | None:
    """The file of the image in one field, or None where there is no image; problems are noted."""
    if not fields.has(key):
        return None
    try:
        return pictures.keep(fields.record[key])
    except ValueError as error:
        fields.note(key, str(error))
        return None
