"""stock.json: what a stock checkpoint says of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from exporter.digests import digest_of_file
from exporter.errors import VerificationError

STOCK_JSON = "stock.json"
FORMAT = "steerbake-stock/1"


def checked_manifest(folder: Path) -> dict[str, Any]:
    """The content of stock.json; raises VerificationError where a file is not the one that it names."""
    manifest = read_manifest(folder)
    if manifest.get("format") != FORMAT:
        raise VerificationError(
            f"{folder / STOCK_JSON} has the format {manifest.get('format')!r}, not {FORMAT!r}"
        )
    for name, digest in manifest["files"].items():
        if not (folder / name).is_file() or digest_of_file(folder / name) != digest:
            raise VerificationError(
                f"{folder / name} is missing or not the file that {STOCK_JSON} names; export the stock again"
            )
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of the folder's stock.json."""
    content: dict[str, Any] = json.loads((folder / STOCK_JSON).read_text(encoding="utf-8"))
    return content
