"""Callers that change the files of a checkpoint and load what comes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.callers.observed import Logits
from benchmarks.callers.passes import whole
from benchmarks.callers.registry import caller
from benchmarks.callers.side import Side


def rewritten(side: Side, change: Callable[[str, Tensor], Tensor]) -> Path:
    """A copy of the folder with every floating matrix of the base changed."""
    folder = side.copy(side.scratch() / "changed")
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        if any(name.startswith("steering.") for name in tensors):
            continue
        changed = {
            name: change(name, tensor).contiguous()
            if tensor.dim() == 2 and tensor.is_floating_point()
            else tensor
            for name, tensor in tensors.items()
        }
        save_file(changed, path, metadata=metadata or {"format": "pt"})
    return folder


@caller("files")
def fine_tuned(side: Side) -> Logits:
    """Every matrix moved by a hundredth of its spread, at random, as a fine-tune would."""
    noise = torch.Generator().manual_seed(0)

    def moved(_: str, tensor: Tensor) -> Tensor:
        return tensor + 0.01 * tensor.float().std().to(tensor.dtype) * torch.randn(
            tensor.shape, generator=noise
        ).to(tensor.dtype)

    return _loaded(side, rewritten(side, moved))


@caller("files")
def one_matrix_fine_tuned(side: Side) -> Logits:
    """One matrix alone, and only in its last rows: far from the first bytes of the tensor."""

    def moved(name: str, tensor: Tensor) -> Tensor:
        if not name.endswith("layers.0.mlp.down_proj.weight"):
            return tensor
        tensor = tensor.clone()
        tensor[-4:] *= 1.5
        return tensor

    return _loaded(side, rewritten(side, moved))


@caller("files")
def quantised_to_4_bits(side: Side) -> Logits:
    """Rounded to 15 levels a row and written back, as a converter leaves them."""
    return _loaded(side, rewritten(side, lambda _, tensor: _rounded(tensor, 7)))


@caller("files")
def quantised_to_2_bits(side: Side) -> Logits:
    return _loaded(side, rewritten(side, lambda _, tensor: _rounded(tensor, 1)))


@caller("files")
def steering_zeroed(side: Side) -> Logits:
    """Every steering tensor of the files set to zero; a base has none."""
    folder = side.copy(side.scratch() / "changed")
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if any(name.startswith("steering.") for name in tensors):
            save_file(
                {
                    name: torch.zeros_like(tensor) if name.startswith("steering.") else tensor
                    for name, tensor in tensors.items()
                },
                path,
                metadata={"format": "pt"},
            )
    return _loaded(side, folder)


@caller("files")
def steering_file_removed(side: Side) -> Logits:
    folder = side.copy(side.scratch() / "changed", linked=True)
    for path in folder.glob("steering*.safetensors"):
        path.unlink()
    for index in folder.glob("*.safetensors.index*.json"):
        content = json.loads(index.read_text(encoding="utf-8"))
        content["weight_map"] = {
            name: file for name, file in content["weight_map"].items() if not name.startswith("steering.")
        }
        index.unlink()
        index.write_text(json.dumps(content), encoding="utf-8")
    return _loaded(side, folder)


@caller("files")
def config_without_steering(side: Side) -> Logits:
    def edit(config: dict[str, Any]) -> None:
        config.pop("steering", None)
        config.pop("steering_shapes", None)

    return _loaded(side, _configured(side, edit))


@caller("files")
def config_without_auto_map(side: Side) -> Logits:
    return _loaded(side, _configured(side, lambda config: config.pop("auto_map", None)))


@caller("files")
def config_of_the_base(side: Side) -> Logits:
    """The base's config.json over the checkpoint's, as whoever "repairs" an unknown model type does."""
    folder = side.copy(side.scratch() / "changed", linked=True)
    (folder / "config.json").unlink()
    (folder / "config.json").write_text((side.plain / "config.json").read_text("utf-8"), encoding="utf-8")
    return _loaded(side, folder)


@caller("files")
def config_with_another_threshold(side: Side) -> Logits:
    def edit(config: dict[str, Any]) -> None:
        for gate in config.get("steering", {}).get("gates", ()):
            gate["threshold"] = 1e6 if gate["fires"] == "above" else -1e6

    return _loaded(side, _configured(side, edit))


@caller("files")
def config_without_edits(side: Side) -> Logits:
    def edit(config: dict[str, Any]) -> None:
        if "steering" in config:
            config["steering"]["edits"] = []

    return _loaded(side, _configured(side, edit))


@caller("files")
def config_with_other_positions(side: Side) -> Logits:
    """Rotary positions twice as slow: another model under the same weights."""

    def edit(config: dict[str, Any]) -> None:
        text = config.get("text_config") or config
        rope = text.get("rope_parameters") or text
        rope["rope_theta"] = 2 * float(rope.get("rope_theta", 10000.0))

    return _loaded(side, _configured(side, edit))


@caller("files")
def weights_merged_into_one_file(side: Side) -> Logits:
    """Every tensor of the folder in one model.safetensors, as converters write it."""
    folder = side.copy(side.scratch() / "changed", linked=True)
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors.update({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        path.unlink()
    for index in folder.glob("*.safetensors.index*.json"):
        index.unlink()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return _loaded(side, folder)


def _loaded(side: Side, folder: Path) -> Logits:
    return Logits(whole(side.load(folder), side).rows, lawful=False)


def _rounded(tensor: Tensor, levels: int) -> Tensor:
    scale = tensor.float().abs().amax(-1, keepdim=True).clamp_min(1e-9) / levels
    return ((tensor.float() / scale).round() * scale).to(tensor.dtype)


def _configured(side: Side, edit: Callable[[dict[str, Any]], object]) -> Path:
    folder = side.copy(side.scratch() / "changed", linked=True)
    path = folder / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    edit(config)
    path.unlink()
    path.write_text(json.dumps(config), encoding="utf-8")
    return folder
