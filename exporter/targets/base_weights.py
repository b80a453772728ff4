"""The weights of a base model as they lie on disk: shards, tensor headers and fingerprint. Reads no whole tensor."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from exporter.errors import CompileError
from steer_modules.files import WEIGHTS, WEIGHTS_INDEX

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
STEERED_INDEX, STEERED_SINGLE = WEIGHTS_INDEX, WEIGHTS
_SAMPLE = 4096
"""Bytes of each tensor that enter the fingerprint."""


class StoredTensor(NamedTuple):
    """One tensor of a shard: its safetensors dtype, shape, and byte range ``[start, stop)`` within the file."""

    shard: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class BaseWeights:
    """The shards of a base model.

    Attributes:
        folder: where they lie.
        shards: file names, sorted.
        tensors: every tensor by name.
    """

    folder: Path
    shards: tuple[str, ...]
    tensors: dict[str, StoredTensor]

    @classmethod
    def read(cls, folder: Path, *, steered: bool = False) -> BaseWeights:
        """Reads the headers of all shards.

        Args:
            steered: of a steered checkpoint, whose files have names of their own.

        Raises:
            CompileError: no safetensors weights, a missing or truncated shard, or an index that does not agree.
        """
        names = (STEERED_INDEX, STEERED_SINGLE) if steered else (INDEX, SINGLE)
        index, single = (folder / name for name in names)
        if index.exists() and single.exists():
            raise CompileError(
                f"{folder} holds both {single.name} and {index.name}; remove the one that is not the model"
            )
        if index.exists():
            weight_map: dict[str, str] = _read_json(index)["weight_map"]
            shards = tuple(sorted(set(weight_map.values())))
        elif single.exists():
            weight_map, shards = {}, (single.name,)
        else:
            raise CompileError(
                f"{folder} holds neither {single.name} nor {index.name}; load the model with Transformers and save it again with "
                "save_pretrained, which writes safetensors"
            )
        tensors: dict[str, StoredTensor] = {}
        for shard in shards:
            tensors.update(read_header(folder / shard))
        if index.exists():
            wrong = [n for n, s in weight_map.items() if n not in tensors or tensors[n].shard != s]
            if wrong:
                raise CompileError(f"{index} names {wrong[0]!r}, which is not in the shard it names")
            tensors = {name: tensors[name] for name in weight_map}
        return cls(folder, shards, tensors)

    @property
    def total_size(self) -> int:
        """Bytes of all tensors."""
        return sum(t.stop - t.start for t in self.tensors.values())

    def fingerprint(self) -> str:
        """``sha256:`` + hex over, by name, each tensor's name, ``BF16[2,3]`` and first 4096 bytes (docs/format.md)."""
        digest = hashlib.sha256()
        handles = {shard: (self.folder / shard).open("rb") for shard in self.shards}
        try:
            for name in sorted(self.tensors):
                tensor = self.tensors[name]
                digest.update(f"{name}{tensor.dtype}[{','.join(map(str, tensor.shape))}]".encode())
                handle = handles[tensor.shard]
                handle.seek(tensor.start)
                digest.update(handle.read(min(_SAMPLE, tensor.stop - tensor.start)))
        finally:
            for handle in handles.values():
                handle.close()
        return f"sha256:{digest.hexdigest()}"


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file; raises CompileError where it is missing, truncated or not safetensors."""
    try:
        with path.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            size = path.stat().st_size
            if length > size - 8:
                raise ValueError("the header is longer than the file")
            header: dict[str, Any] = json.loads(handle.read(length))
    except FileNotFoundError as error:
        raise CompileError(f"{path} is missing; the base model is not whole") from error
    except (ValueError, struct.error) as error:
        raise CompileError(
            f"{path} is not a whole safetensors file ({error}); fetch the base model again"
        ) from error
    header.pop("__metadata__", None)
    first = 8 + length
    tensors = {
        name: StoredTensor(
            path.name,
            t["dtype"],
            tuple(t["shape"]),
            first + t["data_offsets"][0],
            first + t["data_offsets"][1],
        )
        for name, t in header.items()
    }
    if any(t.stop > size for t in tensors.values()):
        raise CompileError(f"{path} is truncated: it ends before its last tensor; fetch the base model again")
    return tensors


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CompileError(f"{path} cannot be read: {error}") from error
