"""How much disk a run will take, from the sizes of weights and rows; an estimate, in bytes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from exporter.pipeline.base_checks import BaseFacts
from exporter.recipe import Recipe

FRAMED = 20
"""Sequences that a gate's search makes of one row (measured: SmolLM2, 122 rows)."""
MOST_SEQUENCES = 8_000
READ_LAYERS = 3
FRAME_TOKENS = 30
ONNX_BYTES = {"fp32": 4.0, "fp16": 2.0, "int8": 1.6, "q4": 1.2}
"""Bytes for each parameter of a graph; the matrix of the logits stays in float32."""
GGUF_BYTES = {"f32": 4.0, "f16": 2.0, "q8_0": 1.1, "q4_k_m": 0.7}


@dataclass(frozen=True)
class Disk:
    """What is needed by what it is for, what lies there already, and what is free, in bytes."""

    needed: Mapping[str, int]
    there: int
    free: int

    @property
    def missing(self) -> int:
        return max(sum(self.needed.values()) - self.there - self.free, 0)

    def told(self) -> str:
        parts = ", ".join(f"{name} {amount(size)}" for name, size in self.needed.items() if size)
        return f"about {amount(sum(self.needed.values()))} needed ({parts or 'little'}), {amount(self.free)} free"


def disk(
    recipe: Recipe, base: Path, facts: BaseFacts, out: Path, lengths: list[int], *, publishing: bool
) -> Disk:
    """The estimate for a run into ``out``; ``lengths`` are the tokens of its rows."""
    place = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    weights = facts.weights.total_size if facts.weights is not None else 0
    copied = 0 if base.stat().st_dev == place.stat().st_dev else weights  # links need no room of their own
    sequences = min(FRAMED * len(lengths), MOST_SEQUENCES)
    tokens = sum(lengths) / max(len(lengths), 1) + FRAME_TOKENS
    needed = {
        "states": round(sequences * tokens * READ_LAYERS * 4 * (facts.width or 0)),
        "checkpoints": copied * len(recipe.methods.names),
    }
    if publishing and recipe.publish is not None:
        needed["release"] = copied
        needed |= _targets(recipe, facts.parameters, weights)
    return Disk(needed, _size(out), shutil.disk_usage(place).free)


def _targets(recipe: Recipe, parameters: int, weights: int) -> dict[str, int]:
    asked = recipe.publish
    assert asked is not None
    found: dict[str, int] = {}
    if "onnx" in asked.targets:
        kinds = {*asked.onnx_dtypes, *(["fp32"] if {"int8", "q4"} & set(asked.onnx_dtypes) else [])}
        found["onnx"] = round(parameters * sum(ONNX_BYTES[kind] for kind in kinds))
    if "stock" in asked.targets:
        found["stock"] = round(weights * 1.2)
    if "gguf" in asked.targets:
        kinds = set(asked.gguf_types) or {"f16", "q8_0", "q4_k_m"}
        found["gguf"] = round(parameters * sum(GGUF_BYTES.get(kind.lower(), 1.0) for kind in kinds))
    return found


def _size(folder: Path) -> int:
    """Bytes of what lies in a folder and counts once: links to the base's weights do not."""
    if not folder.is_dir():
        return 0
    return sum(
        path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.stat().st_nlink == 1
    )


def amount(size: float) -> str:
    """Bytes in words."""
    for unit, bytes_of in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= bytes_of:
            return f"{size / bytes_of:.1f} {unit}"
    return f"{size:.0f} B"
