"""Attention over short conversations on a CPU.

PyTorch's fused attention has a backward on CPUs that takes twenty times its forward on sequences of a hundred tokens: a quarter of a whole step of SmolLM2.
Written out, attention is five times as fast there. It keeps every score for the backward, B H T^2 a block, so long conversations keep the fused one.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

SHORT = 256
"""Columns of a batch up to which attention is written out."""


def attention_for(ids: torch.Tensor) -> AbstractContextManager[None]:
    """What the forward of a batch of token ids [B, T] runs in, if it is to be differentiated."""
    written_out = ids.device.type == "cpu" and ids.shape[-1] <= SHORT and torch.is_grad_enabled()
    return sdpa_kernel(SDPBackend.MATH) if written_out else nullcontext()
