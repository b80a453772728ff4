"""``gguf.json``: what lies in an exported folder, and what it was made from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Final, Literal

from exporter.artifact import Artifact, Strict
from exporter.digests import digest_of_file
from exporter.errors import VerificationError
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


class GgufManifest(Artifact):
    """The content of gguf.json; see docs/gguf.md."""

    FILE = MANIFEST
    REMEDY = "export the gguf target again"
    INDENT: ClassVar[int] = 2

    format: Literal["steerbake-gguf/1"] = FORMAT
    stock: StockShown
    files: dict[str, GgufFile]

    def check_files(self, folder: Path, digest: Callable[[Path], str] = digest_of_file) -> None:
        """Raises VerificationError where a file is not the one that is named.

        Args:
            digest: finds a file's hex SHA-256.
        """
        for name, file in self.files.items():
            if not (folder / name).is_file() or digest(folder / name) != file.sha256:
                raise VerificationError(
                    f"{name} is missing or differs from its entry in {MANIFEST}; {self.REMEDY}"
                )
