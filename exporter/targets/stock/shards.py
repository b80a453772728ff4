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

from exporter.targets.base_weights import INDEX, SINGLE, BaseWeights

_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_ALIGNMENT = 8


def insert_layers(
    weights: BaseWeights,
    shards: Sequence[str],
    prefix: str,
    after: int,
    added: Sequence[Mapping[str, Tensor]],
    out: Path,
) -> None:
    """Write the shards of a model with ``added`` decoder layers behind layer ``after``.

    Args:
        weights: of a model; only ``shards`` of it are written.
        prefix: of its decoder layers' names.
        added: tensors of each layer by suffix.
        out: an existing folder.

    A model of one shard stays one file, so that no part of it can be left behind; others get one more shard and an index.
    """
    new = {
        f"{prefix}{after + 1 + number}.{suffix}": tensor
        for number, layer in enumerate(added)
        for suffix, tensor in layer.items()
    }

    def renamed(name: str) -> str:
        return renumbered(name, prefix, after, len(added))

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
    (out / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def renumbered(name: str, prefix: str, after: int, count: int) -> str:
    """The name of a tensor once ``count`` layers stand behind layer ``after``."""
    match = re.match(rf"{re.escape(prefix)}(\d+)\.", name)
    if match is None or int(match[1]) <= after:
        return name
    return f"{prefix}{int(match[1]) + count}.{name[match.end() :]}"


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
