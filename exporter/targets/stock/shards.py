"""Safetensors shards with layers renumbered and layers added: headers are written anew, the data of the base streamed as it is."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exporter.atomic import write_json
from exporter.targets.base_weights import INDEX, SINGLE, BaseWeights

_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_ALIGNMENT = 8


def insert_layers(
    weights: BaseWeights,
    shards: Sequence[str],
    prefix: str,
    added: Mapping[int, Sequence[Mapping[str, Tensor]]],
    out: Path,
) -> None:
    """Write the shards of a model with decoder layers added.

    Args:
        weights: of a model; only ``shards`` of it are written.
        prefix: of its decoder layers' names.
        added: tensors of each new layer by suffix; by the layer that they stand behind.
        out: an existing folder.

    A model of one shard stays one file, so that no part of it can be left behind; others get one more shard and an index.
    """
    layers = [layer for after in sorted(added) for layer in added[after]]
    new = {
        f"{prefix}{place}.{suffix}": tensor
        for place, layer in zip(places(added), layers, strict=True)
        for suffix, tensor in layer.items()
    }

    def renamed(name: str) -> str:
        return renumbered(name, prefix, {after: len(some) for after, some in added.items()})

    if len(shards) == 1:
        _write(weights.folder / shards[0], renamed, new, out / SINGLE)
        return
    count = len(shards) + 1
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{count:05d}.safetensors"
        _write(weights.folder / shard, renamed, {}, out / file)
        weight_map |= {renamed(name): file for name, t in weights.tensors.items() if t.shard == shard}
    last = f"model-{count:05d}-of-{count:05d}.safetensors"
    _write(None, renamed, new, out / last)
    weight_map |= dict.fromkeys(new, last)
    total = sum(t.stop - t.start for t in weights.tensors.values() if t.shard in shards)
    total += sum(tensor.numel() * tensor.element_size() for tensor in new.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(out / INDEX, index, indent=2)


def places(added: Mapping[int, Sequence[object]]) -> list[int]:
    """Numbers of the new layers in the deeper model, in order."""
    found: list[int] = []
    for after in sorted(added):
        found += [after + 1 + len(found) + number for number in range(len(added[after]))]
    return found


def renumbered(name: str, prefix: str, added: Mapping[int, int]) -> str:
    """The name of a tensor once ``added[after]`` layers stand behind each layer ``after``."""
    match = re.match(rf"{re.escape(prefix)}(\d+)\.", name)
    if match is None:
        return name
    layer = int(match[1])
    moved = layer + sum(count for after, count in added.items() if after < layer)
    return name if moved == layer else f"{prefix}{moved}.{name[match.end() :]}"


def _write(source: Path | None, renamed: Any, new: Mapping[str, Tensor], out: Path) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    first = size = 0
    if source is not None:
        with source.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            header = json.loads(handle.read(length))
        first, size = 8 + length, source.stat().st_size - 8 - length
        header = {renamed(name): value for name, value in header.items()}
    stop = size
    for name, tensor in new.items():
        start, stop = stop, stop + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, stop],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with out.open("wb") as handle:
        handle.write(struct.pack("<Q", len(text)) + text)
        if source is not None:
            with source.open("rb") as data:
                data.seek(first)
                shutil.copyfileobj(data, handle, 16 * 2**20)
        for tensor in new.values():
            handle.write(tensor.contiguous().view(torch.uint8).numpy().data)
