"""What there is to choose from: a method, reader or target is one line here. Families have none: they are proven."""

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


def resolve(table: Mapping[str, str], kind: str, name: str) -> Any:
    """The object registered under ``name``; raises SteerbakeError listing the valid names."""
    if name not in table:
        raise SteerbakeError(f"no {kind} is called {name!r}; there are {', '.join(sorted(table))}")
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(module), attribute)
