"""Which of several processes this one is: ``accelerate launch`` and ``torchrun`` start one a device, and say so in the environment."""

from __future__ import annotations

import os


def rank() -> int:
    """Number of this process among all; 0 where there is one."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int | None:
    """Number of this process on its machine; None where there is one process in all."""
    found = os.environ.get("LOCAL_RANK")
    return int(found) if found is not None and int(os.environ.get("WORLD_SIZE", "1")) > 1 else None


def is_main() -> bool:
    """Whether this process writes results; the others only train along."""
    return rank() == 0
