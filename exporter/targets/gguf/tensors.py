"""What a written GGUF file holds, read back with the ``gguf`` package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exporter.errors import CompileError, VerificationError
from exporter.targets.gguf.precisions import KEPT


def check_reader() -> None:
    """Raises CompileError where the package that reads GGUF files is missing."""
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise CompileError(
            "reading the written files back needs gguf: pip install 'steerbake[gguf]'"
        ) from None


def check_file(path: Path, layers: Sequence[int], blocks: int) -> dict[str, str]:
    """:func:`check_layers`; of a file without inserted layers, that it is whole and nothing in it that is not quantised is infinite.

    Raises:
        VerificationError: it is not.
    """
    if layers:
        return check_layers(path, layers, blocks)
    reader = _reader(path)
    _check_count(path, reader, blocks)
    for tensor in reader.tensors:
        if tensor.tensor_type.name in KEPT and not np.isfinite(tensor.data).all():
            raise VerificationError(
                f"{path.name}: {tensor.name} is not finite in {tensor.tensor_type.name}; use --type f32"
            )
    places = {int(tensor.name.split(".")[1]) for tensor in reader.tensors if tensor.name.startswith("blk.")}
    if places != set(range(blocks)):
        raise VerificationError(
            f"{path.name} has tensors of {len(places)} layers, not of {blocks}; try another llama.cpp"
        )
    return {}


def check_layers(path: Path, layers: Sequence[int], blocks: int) -> dict[str, str]:
    """Checks that the inserted layers are whole, finite and not quantised.

    Returns:
        The type of each of their tensors, by name.

    Raises:
        VerificationError: a tensor of theirs is quantised or not finite, a layer has none, or the file has another number of layers.
    """
    reader = _reader(path)
    _check_count(path, reader, blocks)
    places = {f"blk.{layer}.": 0 for layer in layers}
    types: dict[str, str] = {}
    for tensor in reader.tensors:
        place = next((one for one in places if tensor.name.startswith(one)), None)
        if place is None:
            continue
        places[place] += 1
        types[tensor.name] = tensor.tensor_type.name
        if types[tensor.name] not in KEPT:
            raise VerificationError(
                f"{path.name}: {tensor.name} of an inserted layer became {types[tensor.name]}, which breaks the steering; use a llama.cpp "
                "whose quantiser supports --tensor-type"
            )
        if not np.isfinite(tensor.data).all():
            raise VerificationError(
                f"{path.name}: {tensor.name} of an inserted layer is not finite in {types[tensor.name]}; use --type f32"
            )
    empty = [place for place, found in places.items() if not found]
    if empty:
        raise VerificationError(f"{path.name} has no tensor {', '.join(f'{one}*' for one in empty)}")
    return dict(sorted(types.items()))


def _check_count(path: Path, reader: Any, blocks: int) -> None:
    count = _block_count(reader)
    if count != blocks:
        raise VerificationError(
            f"{path.name} has {count} layers and the checkpoint {blocks}; the converter dropped some"
        )


def _block_count(reader: Any) -> int | None:
    architecture = reader.get_field("general.architecture")
    field = architecture and reader.get_field(f"{architecture.contents()}.block_count")
    return int(field.contents()) if field else None


def _reader(path: Path) -> Any:
    import gguf

    try:
        return gguf.GGUFReader(path)
    except (ValueError, IndexError) as error:
        raise VerificationError(f"{path.name} is not a GGUF file: {error}") from None
