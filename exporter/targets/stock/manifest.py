"""stock.json: what a stock checkpoint says of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

STOCK_JSON = "stock.json"
FORMAT = "steerbake-stock/1"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of the folder's stock.json."""
    content: dict[str, Any] = json.loads((folder / STOCK_JSON).read_text(encoding="utf-8"))
    return content
