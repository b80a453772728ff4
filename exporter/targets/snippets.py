"""Parts of usage snippets that targets share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from exporter.errors import VerificationError


def with_transformers(model: str, arguments: str) -> str:
    """Three lines that load a checkpoint through one of the Auto classes."""
    sees = model == "AutoModelForImageTextToText"
    reader, variable = ("AutoProcessor", "processor") if sees else ("AutoTokenizer", "tokenizer")
    return (
        f"from transformers import {', '.join(sorted((model, reader)))}\n"
        f"model = {model}.from_pretrained({arguments})\n"
        f"{variable} = {reader}.from_pretrained({arguments})"
    )


def config_of(folder: Path) -> dict[str, Any]:
    """The content of config.json; raises VerificationError where it is no JSON object."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VerificationError(f"{folder / 'config.json'} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise VerificationError(f"{folder / 'config.json'} is not a JSON object")
    return found
