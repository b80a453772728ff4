"""Reading a stock checkpoint: a plain Transformers model whose inserted layers hold the steering."""

from __future__ import annotations

from pathlib import Path

from exporter.digests import digest_of_file
from exporter.errors import CompileError, VerificationError
from exporter.model_folder import read_object
from exporter.targets.gguf.manifest import StockShown
from exporter.targets.gguf.plain import Plain, blocks_of, refuse_added, text_config
from exporter.targets.stock.manifest import STOCK_JSON, StockManifest


def read_stock(folder: Path) -> Plain:
    """Reads and checks a stock checkpoint.

    Raises:
        CompileError: it is none, it sees images, or a file is missing, added or not the one that stock.json names.
    """
    manifest = _manifest(folder)
    layers, files = tuple(sorted(set(manifest.layers))), manifest.files
    _check_files(folder, files)
    blocks = blocks_of(text_config(folder))
    if not layers or blocks is None or not 0 <= layers[0] <= layers[-1] < blocks:
        raise CompileError(
            f"{folder / STOCK_JSON} lists layers {list(layers)} of a model with {blocks} layers; export the stock target again"
        )
    shown = StockShown(
        sha256=digest_of_file(folder / STOCK_JSON),
        layers=list(layers),
        blocks=blocks,
        checkpoint=manifest.checkpoint,
        files=files,
    )
    return Plain(folder, layers, blocks, tuple(files), shown)


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
    path = folder / "config.json"
    config = read_object(path, strict=False) if path.is_file() else {}
    if "steering" in config or str(config.get("model_type")).startswith("steered_"):
        return (
            f"{folder} is a steered checkpoint with code of its own, which llama.cpp cannot run; "
            f"run `steerbake export stock {folder} STOCK` first, and export STOCK"
        )
    return f"{folder} has no {STOCK_JSON}, so it is not a stock checkpoint; give the folder that `steerbake export stock` wrote, or a merged checkpoint"


def _check_files(folder: Path, files: dict[str, str]) -> None:
    """Raises CompileError where a file is not the one that was written, or one lies there that a converter would read."""
    for name, digest in files.items():
        if not (folder / name).is_file():
            raise CompileError(f"{folder / name} is missing; export the stock target again")
        if digest_of_file(folder / name) != digest:
            raise CompileError(
                f"{folder / name} differs from its entry in {STOCK_JSON}; export the stock target again"
            )
    refuse_added(folder, files, STOCK_JSON)
    if "config.json" not in files:
        raise CompileError(f"{folder / STOCK_JSON} does not list config.json; export the stock target again")
