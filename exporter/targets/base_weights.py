"""The weights of a base model as they lie on disk: shards, tensor headers and fingerprint. Reads no whole tensor."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import NamedTuple

from exporter.errors import CompileError
from exporter.model_folder import LARGEST_JSON, leaves, parsed_object
from exporter.usable_base import SAFE, SAFE_INDEX, shards_of_index
from steer_modules.files import WEIGHTS, WEIGHTS_INDEX

SINGLE, INDEX = SAFE, SAFE_INDEX
STEERED_INDEX, STEERED_SINGLE = WEIGHTS_INDEX, WEIGHTS
_SAMPLE = 4096
"""Bytes of each tensor that enter the fingerprint."""
_PIECE = 1 << 22
BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}
"""Of one element, by the dtypes that safetensors knows (https://github.com/huggingface/safetensors)."""
_SHORTEST = 2
_MOST_AXES = 64
_SIZES = "lists of integers of 0 or more"


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
        tensors: every tensor of the shards by name, also one that the index forgets: Transformers loads it all the same.
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
                f"{folder} contains both {single.name} and {index.name}; remove the one that does not belong to the model"
            )
        if index.exists():
            weight_map = shards_of_index(index, ".safetensors")
            shards = tuple(sorted(set(weight_map.values())))
        elif single.exists():
            weight_map, shards = {}, (single.name,)
        else:
            raise CompileError(
                f"{folder} contains neither {single.name} nor {index.name}; load the model with Transformers and save it again with "
                "save_pretrained, which writes safetensors"
            )
        outside = [
            name
            for name in (index.name, *shards)
            if (folder / name).exists() and leaves(folder / name, folder)
        ]
        if outside:
            raise CompileError(
                f"{folder / outside[0]} is a link that leaves its folder, to {(folder / outside[0]).resolve()}; replace it by the file "
                "itself"
            )
        tensors: dict[str, StoredTensor] = {}
        for shard in shards:
            found = read_header(folder / shard)
            if twice := tensors.keys() & found.keys():
                raise CompileError(f"{folder} contains {min(twice)!r} in two shards, one of them {shard}")
            tensors.update(found)
        if not tensors:
            raise CompileError(f"{folder} contains no tensors")
        if index.exists():
            wrong = [n for n, s in weight_map.items() if n not in tensors or tensors[n].shard != s]
            if wrong:
                raise CompileError(f"{index} names {wrong[0]!r}, which is not in the shard it names")
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

    def sha256(self) -> str:
        """Hex SHA-256 over, by name, each tensor's name, ``BF16[2,3]`` and all of its bytes, however they lie in shards; reads every file once."""
        digest = hashlib.sha256()
        for name in sorted(self.tensors):
            tensor = self.tensors[name]
            digest.update(f"{name}{tensor.dtype}[{','.join(map(str, tensor.shape))}]".encode())
            with (self.folder / tensor.shard).open("rb") as handle:
                handle.seek(tensor.start)
                left = tensor.stop - tensor.start
                while left:
                    piece = handle.read(min(left, _PIECE))
                    if not piece:
                        raise CompileError(
                            f"{self.folder / tensor.shard} is truncated; download the base model again"
                        )
                    digest.update(piece)
                    left -= len(piece)
        return digest.hexdigest()


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file, held to everything that the format asks of its header.

    Raises:
        CompileError: it is missing, truncated or not safetensors; with what is wrong.
    """
    if not path.is_file():
        raise CompileError(f"{path} is missing; the base model is incomplete, download it again")
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            if not _SHORTEST <= length <= min(LARGEST_JSON, size - 8):
                raise ValueError(f"its header has a stated length of {length} bytes, but the file has {size}")
            header = parsed_object(handle.read(length))
        return _placed(path.name, header, 8 + length, size)
    except (OSError, ValueError, struct.error) as error:
        raise CompileError(
            f"{path} is not a valid safetensors file: {error}; download the base model again"
        ) from error


def _placed(shard: str, header: dict[str, object], first: int, size: int) -> dict[str, StoredTensor]:
    """The tensors of a header whose data begin at byte ``first`` and fill the file; raises ValueError where they do not."""
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("__metadata__ is not an object of strings")
    found = {name: _tensor(shard, name, entry, first) for name, entry in header.items()}
    end = first
    for name, tensor in sorted(found.items(), key=lambda item: (item[1].start, item[1].stop)):
        if tensor.start != end:
            raise ValueError(f"the data of {name!r} begin at byte {tensor.start}, not at {end}")
        end = tensor.stop
    if end != size:
        raise ValueError(f"its tensors end at byte {end}, but the file at {size}")
    return found


def _tensor(shard: str, name: str, entry: object, first: int) -> StoredTensor:
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise ValueError(f"{name!r} has no dtype, shape and data_offsets")
    name.encode("utf-8")  # half a surrogate pair is no name
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ValueError(f"{name!r} has the dtype {dtype!r:.40}; known dtypes: {', '.join(BITS)}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"{name!r} has a shape or data_offsets that are not {_SIZES}")
    start, stop = offsets
    if (stop - start) * 8 != prod(shape) * BITS[dtype]:
        raise ValueError(f"{name!r} has {stop - start} bytes, which do not match {dtype} {shape!r:.60}")
    return StoredTensor(shard, dtype, tuple(shape), first + start, first + stop)


def _are_sizes(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= _MOST_AXES
        and all(type(one) is int and 0 <= one < 2**63 for one in value)
    )
