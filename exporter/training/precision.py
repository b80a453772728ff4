"""The arithmetic of a training: bfloat16 where the device computes it at speed, float32 elsewhere."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]


def in_bfloat16(asked: Precision, device: torch.device) -> bool:
    """Whether passes are autocast to bfloat16; the adapter itself is float32 always."""
    if asked != "auto":
        return asked == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())
