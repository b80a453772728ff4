"""Reading a stock checkpoint: a plain Transformers model whose inserted layers hold the steering."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from exporter.digests import digest_of_file
from exporter.errors import CompileError, VerificationError
from exporter.targets.stock.manifest import STOCK_JSON, Source, StockManifest

_READ_BY_CONVERTERS = ("*.safetensors", "*.json", "*.bin", "*.pt", "*.pth", "*.model", "*.jinja")


@dataclass(frozen=True)
class Stock:
    """A stock checkpoint of which every file is the one that was written.

    Attributes:
        layers: 0-based places of the inserted layers among ``blocks``.
        blocks: decoder layers in all.
        source: what stock.json says of the steered checkpoint it was made from.
        files: name and sha256 of each file.
    """

    folder: Path
    layers: tuple[int, ...]
    blocks: int
    source: Source
    files: dict[str, str]


def read_stock(folder: Path) -> Stock:
    """Reads and checks a stock checkpoint.

    Raises:
        CompileError: it is none, it sees images, or a file is missing, added or not the one that stock.json names.
    """
    manifest = _manifest(folder)
    layers, files = tuple(sorted(set(manifest.layers))), manifest.files
    _check_files(folder, files)
    config = _config(folder)
    _check_text_only(folder, config)
    blocks = config.get("num_hidden_layers")
    if not layers or not isinstance(blocks, int) or not 0 <= layers[0] <= layers[-1] < blocks:
        raise CompileError(
            f"{folder / STOCK_JSON} lists layers {list(layers)} of a model with {blocks} layers; export the stock target again"
        )
    return Stock(folder, layers, blocks, manifest.checkpoint, files)


def _manifest(folder: Path) -> StockManifest:
    if not folder.is_dir():
        raise CompileError(f"{folder} is not a folder; give the folder that `steerbake export stock` wrote")
    if not (folder / STOCK_JSON).is_file():
        raise CompileError(_what_it_is_instead(folder))
    try:
        return StockManifest.load(folder)
    except VerificationError as error:
        raise CompileError(str(error)) from None


def _what_it_is_instead(folder: Path) -> str:
    """The error for a folder without stock.json."""
    config = _config(folder) if (folder / "config.json").is_file() else {}
    if "steering" in config or str(config.get("model_type")).startswith("steered_"):
        return (
            f"{folder} is a steered checkpoint with code of its own, which llama.cpp cannot run; "
            f"run `steerbake export stock {folder} STOCK` first, and export STOCK"
        )
    return f"{folder} has no {STOCK_JSON}, so it is not a stock checkpoint; give the folder that `steerbake export stock` wrote"


def _check_files(folder: Path, files: dict[str, str]) -> None:
    """Raises CompileError where a file is not the one that was written, or one lies there that a converter would read."""
    for name, digest in files.items():
        if not (folder / name).is_file():
            raise CompileError(f"{folder / name} is missing; export the stock target again")
        if digest_of_file(folder / name) != digest:
            raise CompileError(
                f"{folder / name} differs from its entry in {STOCK_JSON}; export the stock target again"
            )
    there = {path.name for pattern in _READ_BY_CONVERTERS for path in folder.glob(pattern)}
    added = sorted(there - set(files) - {STOCK_JSON})
    if added:
        raise CompileError(
            f"{folder} contains {', '.join(added)}, which {STOCK_JSON} does not list; remove it"
        )
    if "config.json" not in files:
        raise CompileError(f"{folder / STOCK_JSON} does not list config.json; export the stock target again")


def _check_text_only(folder: Path, config: dict[str, object]) -> None:
    if "text_config" in config or "vision_config" in config:
        raise CompileError(
            f"{folder} is a model of type {config.get('model_type')!r}, which reads images; a GGUF file contains only its text decoder, "
            "and its replies about images would be unchecked. `steerbake export onnx` writes models that read images"
        )


def _config(folder: Path) -> dict[str, object]:
    return _json(folder / "config.json")


def _json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CompileError(f"{path} is not JSON ({error}); export the stock target again") from None
    if not isinstance(content, dict):
        raise CompileError(f"{path} is not a JSON object; export the stock target again")
    return content
