"""How much disk a run will take, from the sizes of weights and rows; an estimate, in bytes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter import registry
from exporter.pipeline.base_checks import BaseFacts
from exporter.pipeline.row_checks import FRAME_TOKENS
from exporter.recipe import Recipe
from exporter.usable_base import is_binary

FRAMED = 20
"""Sequences at most that a gate's search makes of one row."""
HELD = 1.5
"""How many times as many with those of the calibration rows."""
SEQUENCES, POOLS = 4_000, 2
"""Sequences of a method that does not say how many it reads, and the columns of each that it keeps."""


@dataclass(frozen=True)
class Disk:
    """What is needed by what it is for, what lies there already, and what is free, in bytes."""

    needed: Mapping[str, int]
    there: int
    free: int

    @property
    def missing(self) -> int:
        return max(sum(self.needed.values()) - self.there - self.free, 0)

    def described(self) -> str:
        parts = ", ".join(f"{name} {amount(size)}" for name, size in self.needed.items() if size)
        return f"about {amount(sum(self.needed.values()))} needed ({parts or 'little'}), {amount(self.free)} free"


def disk(
    recipe: Recipe, base: Path, facts: BaseFacts, out: Path, sizes: list[int], *, publishing: bool
) -> Disk:
    """The estimate for a run into ``out``; ``sizes`` are the tokens of the rows that a fit reads."""
    place = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    weights = facts.weights.total_size if facts.weights is not None else 0
    copied = 0 if base.stat().st_dev == place.stat().st_dev else weights  # links need no room of their own
    needed = {
        "base": _prepared(recipe, base, weights),
        "states": max(_states(recipe, name, facts, sizes) for name in recipe.methods.names),
        "checkpoints": sum(
            weights if recipe.yields(name) == "edit" else copied for name in recipe.methods.names
        ),
    }
    if publishing and recipe.publish is not None:
        needed["release"] = copied
        needed |= _targets(recipe, facts.parameters, weights)
    return Disk(needed, _size(out), shutil.disk_usage(place).free)


def _prepared(recipe: Recipe, base: Path, weights: int) -> int:
    """Bytes of the bases that are written first: one converted from ``.bin`` files, one with adapters merged."""
    binary = sum(path.stat().st_size for path in base.glob("pytorch_model*.bin")) if is_binary(base) else 0
    return binary + (max(binary, weights) if recipe.base.adapters else 0)


def _states(recipe: Recipe, name: str, facts: BaseFacts, sizes: list[int]) -> int:
    """States that a method keeps on disk, float32 [columns, layers, d]: all columns of a sequence, or a few of it at every layer."""
    method: Any = registry.resolve(registry.METHODS, "method", name)
    plan = getattr(method.Params.model_validate(recipe.methods.params.get(name, {})), "subject", None)
    layers = facts.layers or 1
    if plan is None:
        columns = min(SEQUENCES, FRAMED * len(sizes)) * POOLS
    else:
        sequences = HELD * (plan.framed(len(sizes)) + 3 * min(plan.rows, len(sizes)))
        mean = sum(sizes) / max(len(sizes), 1)
        columns = round(min(sequences, FRAMED * len(sizes)) * (mean + FRAME_TOKENS))
        layers = len(plan.blocks(layers))
    return columns * layers * 4 * (facts.width or 0)


def _targets(recipe: Recipe, parameters: int, weights: int) -> dict[str, int]:
    asked = recipe.publish
    assert asked is not None
    return {
        target.name: target.disk(asked.options(target), parameters, weights)
        for target in map(registry.target, recipe.targets)
    }


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
