"""States at single columns of rows with their answers, spread over a whole sequence or over its reply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from exporter.fitting.context import FitContext
from exporter.fitting.pooling import PooledSequence
from exporter.fitting.selection import evenly
from exporter.types import Row

Part = Literal["whole", "reply"]


def column_states(
    context: FitContext, rows: Sequence[Row], layers: Sequence[int], title: str, *, part: Part, most: int
) -> dict[int, Tensor]:
    """By layer, float32 [n,d]: the states of at most ``most`` columns of every row's prompt and answer.

    Args:
        part: "whole", from the first column on; "reply", from the prompt's end on, whose state makes the reply's first token.
    """
    items = []
    for row in context.filled(rows):
        sequence = context.chat.encode(row)
        first = 0 if part == "whole" else sequence.prompt_end
        columns = evenly(range(first, len(sequence)), most)
        items.append(PooledSequence(sequence, tuple((column,) for column in columns)))
    found = context.collect(items, layers, title)
    return {layer: found.at(layer) for layer in layers}
