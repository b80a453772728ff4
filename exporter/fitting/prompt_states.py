"""States of the prompts of rows, where a gate with a header pool decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from exporter.fitting.context import FitContext
from exporter.fitting.pooling import PooledSequence
from exporter.types import Encoded, Row

Pool = Literal["prompt_end", "prompt_mean"]


def prompt_states(
    context: FitContext, rows: Sequence[Row], layers: Sequence[int], title: str, pool: Pool = "prompt_end"
) -> dict[int, Tensor]:
    """By layer, float32 [n,d]: of each row's prompt the state at the end of its last generation header, or the mean state up to there.

    Earlier turns that are open are answered by the unsteered base.
    """
    items = []
    for row in context.filled(rows):
        sequence = Encoded(context.chat.prompt(row))
        column = context.decision(sequence.prompt)
        first = column if pool == "prompt_end" else 0
        items.append(PooledSequence(sequence, (tuple(range(first, column + 1)),)))
    found = context.collect(items, layers, title)
    return {layer: found.at(layer) for layer in layers}
