"""What GGUF files are made from: a Transformers checkpoint without code, of which every file is the one that its manifest lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from exporter.errors import CompileError
from exporter.model_folder import read_object
from exporter.targets.gguf.manifest import MergedShown, StockShown

_READ_BY_CONVERTERS = ("*.safetensors", "*.json", "*.bin", "*.pt", "*.pth", "*.model", "*.jinja")
_OF_A_RELEASE = {"verification.json", "provenance.json", "report.json"}
"""Lie beside the checkpoint of a release, and no converter reads them."""


@dataclass(frozen=True)
class Plain:
    """A plain checkpoint.

    Attributes:
        layers: 0-based places of inserted layers that no quantiser may touch, among ``blocks``; none where the weights themselves were edited.
        blocks: decoder layers in all.
        files: names of its files.
        shown: what the manifest of the GGUF files says of it.
    """

    folder: Path
    layers: tuple[int, ...]
    blocks: int
    files: tuple[str, ...]
    shown: StockShown | MergedShown


def refuse_added(folder: Path, listed: Iterable[str], marker: str) -> None:
    """Raises CompileError where a file lies in a checkpoint that a converter would read and its manifest does not list."""
    there = {path.name for pattern in _READ_BY_CONVERTERS for path in folder.glob(pattern)}
    if added := sorted(there - set(listed) - _OF_A_RELEASE - {marker}):
        raise CompileError(f"{folder} contains {', '.join(added)}, which {marker} does not list; remove it")


def text_config(folder: Path) -> Mapping[str, object]:
    """The content of config.json; raises CompileError for a model that reads images, or a config that is no JSON object."""
    config = read_object(folder / "config.json", strict=False)
    if "text_config" in config or "vision_config" in config:
        raise CompileError(
            f"{folder} is a model of type {config.get('model_type')!r}, which reads images; a GGUF file contains only its text decoder, "
            "and its replies about images would be unchecked. `steerbake export onnx` writes models that read images"
        )
    return config


def blocks_of(config: Mapping[str, object]) -> int | None:
    """Decoder layers that a config names."""
    found = config.get("num_hidden_layers", config.get("n_layer"))
    return found if isinstance(found, int) else None
