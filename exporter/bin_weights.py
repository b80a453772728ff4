"""PyTorch's ``.bin`` weights, written again as safetensors. Nothing is unpickled but tensors, so no code of a file runs."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from exporter.atomic import write_json
from exporter.errors import CompileError
from exporter.model_folder import leaves
from exporter.usable_base import BIN, BIN_INDEX, SAFE, SAFE_INDEX, shards_of_index

_WEIGHTS = (
    ".bin",
    ".ckpt",
    ".gguf",
    ".h5",
    ".msgpack",
    ".onnx",
    ".pt",
    ".pth",
    ".safetensors",
    ".index.json",
)
_TEMPLATES = "additional_chat_templates"


def convert(base: Path, folder: Path) -> None:
    """Writes into ``folder`` a base whose weights lie in ``.bin`` files, with the same tensors in safetensors files.

    Tensors that share memory in the ``.bin`` file (tied ones) are written once under each of their names. One shard is in memory at a time.

    Args:
        folder: is there and empty.

    Raises:
        CompileError: a file holds something else than tensors by name, or is damaged.
    """
    copy_beside(base, folder)
    if not (base / BIN_INDEX).exists():
        _save(_tensors(base, BIN), folder / SAFE)
        return
    named = shards_of_index(base / BIN_INDEX, ".bin")
    shards = sorted(set(named.values()))
    total, weight_map = 0, dict[str, str]()
    for number, shard in enumerate(shards, 1):
        tensors = _tensors(base, shard)
        lost = sorted(name for name, place in named.items() if place == shard and name not in tensors)
        if lost:
            raise CompileError(f"{base / BIN_INDEX} names {lost[0]!r}, which is not in {shard}")
        kept = {name: tensor for name, tensor in tensors.items() if named.get(name) == shard}
        target = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _save(kept, folder / target)
        total += sum(tensor.numel() * tensor.element_size() for tensor in kept.values())
        weight_map.update(dict.fromkeys(kept, target))
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(folder / SAFE_INDEX, index, indent=2)


def copy_beside(base: Path, folder: Path) -> None:
    """Copies what lies beside a model's weights, so that a folder with other weights is a whole base; no links out of the folder."""
    files = [path for path in base.iterdir() if path.is_file() and not path.name.startswith(".")]
    templates = base / _TEMPLATES
    if templates.is_dir() and not templates.is_symlink():
        files += templates.glob("*.jinja")
    for path in files:
        if path.name.endswith(_WEIGHTS) or leaves(path, base):
            continue
        target = folder / path.relative_to(base)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)


def _tensors(base: Path, name: str) -> dict[str, Tensor]:
    """Tensors by name of one ``.bin`` file."""
    path = base / name
    if not path.is_file() or leaves(path, base):
        raise CompileError(
            f"{path} is missing, or is a link that leaves its folder; download the base model again"
        )
    try:
        found = _read(path)
    except pickle.UnpicklingError as error:
        raise CompileError(
            f"{path} contains more than tensors and is not loaded, because loading it could run code; save the model as safetensors on "
            "the machine where it was made"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise CompileError(f"{path} cannot be read: {error}; download the base model again") from error
    if not isinstance(found, dict) or not found:
        raise CompileError(
            f"{path} contains a {type(found).__name__}; expected a mapping of names to tensors"
        )
    wrong = [key for key, one in found.items() if not isinstance(key, str) or not isinstance(one, Tensor)]
    if wrong:
        raise CompileError(
            f"{path} contains {wrong[0]!r}, which is not a tensor; save only the model's state_dict"
        )
    return found


def _read(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:  # files of before PyTorch 1.6 cannot be mapped
        return torch.load(path, map_location="cpu", weights_only=True)


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    whole = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    save_file(whole, path, metadata={"format": "pt"})
