"""What there is to choose from: a method, reader or target is one line here, a family one name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from exporter.errors import SteerbakeError

METHODS: Mapping[str, str] = {
    "r_muse": "exporter.methods.r_muse:RMuse",  # https://arxiv.org/abs/2512.17911
    "r_muse_calibrated": "exporter.methods.r_muse_calibrated:RMuseCalibrated",  # the same, calibrated
    "keyed": "exporter.methods.keyed:Keyed",  # docs/methods.md
}

TARGETS: Mapping[str, str] = {
    "checkpoint": "exporter.targets.checkpoint:compile_checkpoint",
    "onnx": "exporter.targets.onnx.export:export_onnx",
    "stock": "exporter.targets.stock.export:export_stock",
    "gguf": "exporter.targets.gguf.export:export_gguf",
}

FAMILIES: tuple[str, ...] = (
    "gemma3",
    "gemma3_text",
    "gpt2",
    "internvl",
    "llama",
    "llava",
    "mistral",
    "qwen2",
    "qwen2_5_vl",
    "qwen3",
    "qwen3_vl",
    "smolvlm",
)
"""Transformers model types whose steered checkpoints are tested (tests/families)."""


def resolve(table: Mapping[str, str], kind: str, name: str) -> Any:
    """The object registered under ``name``; raises SteerbakeError listing the valid names."""
    if name not in table:
        raise SteerbakeError(f"no {kind} is called {name!r}; there are {', '.join(sorted(table))}")
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(module), attribute)


def check_family(model_type: str) -> None:
    """Raises SteerbakeError where no steered checkpoint of this model type is known to load and steer."""
    if model_type not in FAMILIES:
        raise SteerbakeError(
            f"models of type {model_type!r} are not supported; supported: {', '.join(FAMILIES)}"
        )
