"""``gguf.json``: what lies in an exported folder, and what it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporter.atomic import write_json
from exporter.digests import digest_of_file
from exporter.targets.gguf.precisions import label
from exporter.targets.gguf.stock import Stock
from exporter.targets.stock.manifest import STOCK_JSON

MANIFEST = "gguf.json"
FORMAT = "steerbake-gguf/1"


def entry(
    path: Path, kind: str, types: Mapping[str, str], probed: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What the manifest says of one file.

    Args:
        types: the type of each tensor of the inserted layers.
        probed: what llama.cpp made of it; None where it was not there to try.
    """
    return {
        "type": label(kind),
        "sha256": digest_of_file(path),
        "bytes": path.stat().st_size,
        "inserted": dict(types),
        "probe": None if probed is None else dict(probed),
    }


def write(folder: Path, stock: Stock, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes the manifest of ``files``, by name."""
    content = {
        "format": FORMAT,
        "stock": {
            "sha256": digest_of_file(stock.folder / STOCK_JSON),
            "layers": list(stock.layers),
            "blocks": stock.blocks,
            "checkpoint": stock.source,
            "files": stock.files,
        },
        "files": files,
    }
    write_json(folder / MANIFEST, content, indent=2)
