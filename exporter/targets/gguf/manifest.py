"""``gguf.json``: what lies in an exported folder, and what it was made from."""

from __future__ import annotations

from typing import ClassVar, Final, Literal

from pydantic import JsonValue, model_validator

from exporter.artifact import Given, Manifest, Strict
from exporter.targets.stock.manifest import Source

MANIFEST = "gguf.json"
FORMAT: Final = "steerbake-gguf/1"


class Probe(Strict):
    """What llama.cpp made of a file: its decoder layers, how many texts it cut into the checkpoint's tokens, a reply's ids."""

    blocks: int
    texts: int
    reply: list[int]


class GgufFile(Strict):
    """One file.

    Attributes:
        type: of its weights, as llama.cpp names it.
        inserted: the type of each tensor of the inserted layers; none of a merged checkpoint.
        probe: None where llama.cpp was not there to try it.
    """

    type: str
    sha256: str
    bytes: int
    inserted: dict[str, str]
    probe: Probe | None


class MergedShown(Strict):
    """The merged checkpoint that the files were made of; ``sha256`` is that of its merged.json, ``fingerprint`` of its weights.

    Attributes:
        edit: hex SHA-256 of the weight edit, which a method of this name found.
        base: fingerprint of the weights that were edited.
        settings: of the config of that base; None in folders of earlier versions, which did not note them.
    """

    sha256: str
    edit: str
    method: str
    base: str
    fingerprint: str
    blocks: int
    files: dict[str, str]
    settings: dict[str, JsonValue] | None = None


class StockShown(Strict):
    """The stock checkpoint that the files were made of; ``sha256`` is that of its stock.json."""

    sha256: str
    layers: list[int]
    blocks: int
    checkpoint: Source
    files: dict[str, str]


class GgufManifest(Manifest, Given):
    """The content of gguf.json; see docs/gguf.md. It has either ``stock`` or ``merged``."""

    FILE = MANIFEST
    REMEDY = "export the gguf target again"
    INDENT: ClassVar[int] = 2

    format: Literal["steerbake-gguf/1"]
    stock: StockShown | None = None
    merged: MergedShown | None = None
    files: dict[str, GgufFile]

    @model_validator(mode="after")
    def _of_one(self) -> GgufManifest:
        if (self.stock is None) == (self.merged is None):
            raise ValueError("needs either stock or merged, the checkpoint that the files were made of")
        return self

    @classmethod
    def of(cls, shown: StockShown | MergedShown, files: dict[str, GgufFile]) -> GgufManifest:
        """Of files that were made of one checkpoint."""
        if isinstance(shown, StockShown):
            return cls(format=FORMAT, stock=shown, files=files)
        return cls(format=FORMAT, merged=shown, files=files)

    @property
    def made_of(self) -> StockShown | MergedShown:
        """The one that there is."""
        found = self.stock or self.merged
        assert found is not None, "validated"
        return found

    @property
    def origin(self) -> dict[str, object]:
        """``sha256`` of the steering section or the edit, and under ``base`` fingerprint and settings of the base."""
        if self.merged is not None:
            base = {"fingerprint": self.merged.base, "settings": self.merged.settings}
            return {"sha256": self.merged.edit, "base": base}
        assert self.stock is not None, "validated"
        return self.stock.checkpoint.origin

    @property
    def digests(self) -> dict[str, str]:
        return {name: file.sha256 for name, file in self.files.items()}
