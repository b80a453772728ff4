"""Contrasts of planted states: what the replies to forget rows differ in, and what kept rows reason along."""

from __future__ import annotations

import torch

from exporter.fitting.contrast import Contrast

D, ROWS = 24, 96
SIGNS = torch.where(torch.arange(D) % 3 == 0, -1.0, 1.0)
SHIFT = SIGNS / D**0.5
"""Where every refusal lies, seen from the memory."""
KEPT = torch.linalg.qr(
    torch.cat([SHIFT[:, None], torch.randn(D, 3, generator=torch.Generator().manual_seed(5))], 1)
)[0][:, 1:]
"""Orthonormal [D,3], orthogonal to the shift: what kept rows reason along."""


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def memories(seed, side=-4.0, n=ROWS):
    """States [n,D] on one side of the shift, each with a control along KEPT that is one of two, and the controls [n]."""
    control = torch.arange(n) % 2
    return side * SHIFT + (6.0 * control[:, None] - 3.0) * KEPT[:, 0] + 0.3 * noise(seed, n, D), control


def forget(seed, shift=4.0, spread=0.5):
    """Refusals minus memories: along the shift, by ``shift`` on average."""
    along = shift + spread * noise(seed, ROWS, 1)
    return Contrast(along * SHIFT + 0.2 * noise(seed + 1, ROWS, D), None, memories(seed + 2, side=shift)[0])


def retain(seed):
    return Contrast(
        3.0 * noise(seed, ROWS, 3) @ KEPT.T + 0.05 * noise(seed + 1, ROWS, D), None, noise(seed, ROWS, D)
    )
