"""``merged.json``: which edit is in the weights of a merged checkpoint, and what its files hash to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from exporter.artifact import Given, Manifest
from exporter.weight_edit import EditedBase


class MergedManifest(Manifest, Given):
    """What a merged checkpoint was made of."""

    FILE = "merged.json"
    REMEDY = "export it again, or fetch the folder again"

    format: Literal["steerbake-merged/1"]
    method: str
    seed: int
    rows: str
    """Digest of the rows that the edit was fitted on."""
    base: EditedBase
    edit: str
    """Hex SHA-256 of the edit."""
    fingerprint: str
    """Of the merged weights (docs/format.md)."""
    changed: Annotated[int, Field(gt=0)]
    """Tensors that differ from the base's."""
    files: dict[str, str]
    """Hex SHA-256 by name."""

    @property
    def digests(self) -> Mapping[str, str]:
        return self.files
