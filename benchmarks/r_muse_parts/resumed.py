"""Refusals forced on questions about the forget set, where the model goes on with them by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from exporter.fitting.context import FitContext
from exporter.fitting.refusals import Wording, forced
from exporter.fitting.selection import plain, spread

LEAST = 0.5
"""Share of the questions that must agree with a token for its state to count, as of natural refusals."""


def resumed_states(
    context: FitContext, chosen: Sequence[Wording], layers: Sequence[int], rows: int = 48
) -> Mapping[int, Tensor]:
    """By layer, [m,d]: mean states along forced refusals from which the model says the next token, over the questions where it does.

    Args:
        rows: questions by name, and as many about images.
    """
    forget = plain(context.need("fit", "forget"))
    sides = [[row for row in forget if (row.image is not None) is seen] for seen in (False, True)]
    prompts = [context.chat.prompt(row) for side in sides for row in spread(side, rows)]
    found: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for wording in chosen:
        items = [forced(prompt, wording.response) for prompt in prompts]
        states = context.collect(items, layers, "resumed refusals")
        agrees = (states.agrees.reshape(len(items), -1) == 1).float()
        kept = agrees.mean(0) >= LEAST
        for layer in layers:
            each = states.at(layer).reshape(*agrees.shape, -1) * agrees.unsqueeze(-1)
            found[layer].append((each.sum(0) / agrees.sum(0).clamp_min(1.0).unsqueeze(-1))[kept])
    return {layer: torch.cat(means) for layer, means in found.items()}
