"""Ids of rows without one: derived from the row's content, so that files of one name in two folders do not clash."""

from __future__ import annotations

from dataclasses import asdict, replace

from exporter.digests import digest_of
from exporter.ledger import contents
from exporter.renamed import ROW_KEYS
from exporter.types import Row

_NAMES = {new: old for old, new in ROW_KEYS.items()}
"""Names of fields as they enter a digest: a row keeps its id, whatever its fields are called today."""
_LATER = ("options", "paraphrased_answers", "perturbed_answers", "derived_secrets")
"""Fields that rows did not always have: one that is empty does not enter a digest, so a row keeps its id."""


def identified(row: Row, stem: str) -> Row:
    """The row with the id ``stem-DIGEST``, DIGEST of everything in it but its id and its role, images by their bytes."""
    content = {
        _NAMES.get(key, key): value
        for key, value in asdict(row).items()
        if key not in ("id", "role") and (value or key not in _LATER)
    }
    return replace(row, id=f"{stem}-{digest_of(contents(content))[:8]}")
