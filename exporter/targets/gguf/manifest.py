"""``gguf.json``: what lies in an exported folder, and what it was made from."""

from __future__ import annotations

from typing import ClassVar, Final, Literal

from exporter.artifact import Manifest, Strict
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
        inserted: the type of each tensor of the inserted layers.
        probe: None where llama.cpp was not there to try it.
    """

    type: str
    sha256: str
    bytes: int
    inserted: dict[str, str]
    probe: Probe | None


class StockShown(Strict):
    """The stock checkpoint that the files were made of; ``sha256`` is that of its stock.json."""

    sha256: str
    layers: list[int]
    blocks: int
    checkpoint: Source
    files: dict[str, str]


class GgufManifest(Manifest):
    """The content of gguf.json; see docs/gguf.md."""

    FILE = MANIFEST
    REMEDY = "export the gguf target again"
    INDENT: ClassVar[int] = 2

    format: Literal["steerbake-gguf/1"] = FORMAT
    stock: StockShown
    files: dict[str, GgufFile]

    @property
    def digests(self) -> dict[str, str]:
        return {name: file.sha256 for name, file in self.files.items()}
