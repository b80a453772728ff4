"""How many threads PyTorch works with: it decides how fast a small model is, and the last bits of every sum."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

THREADS = torch.get_num_threads()
SMALL = 32_000_000
"""Models of fewer parameters run on one thread: several wait for each other longer than they work, most of all on a
machine that has other work to do (35 times longer, measured), and their number would decide the last bits of every sum.
"""


def set_threads(model: nn.Module) -> None:
    """One thread for a small model, all of them for any other; of the whole process."""
    small = sum(weight.numel() for weight in model.parameters()) < SMALL
    torch.set_num_threads(1 if small else THREADS)


@contextmanager
def threads_for(model: nn.Module) -> Iterator[None]:
    """:func:`set_threads` for the length of a ``with`` block."""
    before = torch.get_num_threads()
    set_threads(model)
    try:
        yield
    finally:
        torch.set_num_threads(before)
