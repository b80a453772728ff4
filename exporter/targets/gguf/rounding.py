"""What rounding to f16 does to the layers that must not lose anything, judged before anything is written."""

from __future__ import annotations

import re

import torch
from safetensors import safe_open
from torch import Tensor

from exporter.errors import CompileError
from exporter.targets.gguf.plain import Plain

LOST = 1e-3
"""Share of a matrix's norm that rounding may take; figures in f16's normal range lose less than a third of it."""
_LAYER = re.compile(r"(?:^|\.)(?:layers|h)\.(\d+)\.")


def check_half(stock: Plain) -> None:
    """Raises CompileError where a matrix of an inserted layer, or any of a merged checkpoint, holds figures too large or too small for f16."""
    for name in sorted(stock.files):
        if name.endswith(".safetensors"):
            with safe_open(stock.folder / name, "pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 - no mapping
                    place = _LAYER.search(key)
                    if not stock.layers or (place and int(place[1]) in stock.layers):
                        _check_matrix(key, tensors.get_tensor(key))


def _check_matrix(name: str, figures: Tensor) -> None:
    if figures.ndim < 2:
        return  # llama.cpp keeps those in f32
    exact = figures.double()
    lost = float(torch.linalg.vector_norm(exact.half().double() - exact))
    whole = float(torch.linalg.vector_norm(exact))
    if not lost <= LOST * whole:
        raise CompileError(
            f"{name} cannot be stored in f16 (its largest value is {float(exact.abs().max()):.3g}); use only --type "
            "f32"
        )
