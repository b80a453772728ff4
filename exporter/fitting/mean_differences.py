"""Mean differences that lead away from the forget set: to refusals, to the retain set, or to prompts that are refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from exporter.fitting.context import FitContext
from exporter.fitting.contrast import Negatives, forget_contrast
from exporter.fitting.prompt_states import prompt_states
from exporter.fitting.refusals import Wording
from exporter.fitting.selection import plain, spread

Contrasted = Literal["replies", "questions", "refused"]


def mean_differences(
    context: FitContext,
    chosen: Sequence[Wording],
    layers: Sequence[int],
    source: Contrasted,
    *,
    rows: int,
    negatives: Negatives = "own",
) -> dict[int, Tensor]:
    """By layer, [d]: the mean of one kind of states minus that of the forget set's.

    Args:
        source: "replies", refusals forced on forget questions minus the replies to them; "questions", ends of retain prompts minus
            those of forget prompts; "refused", ends of prompts about unknown subjects minus those of forget prompts.
        rows: most rows of either kind.
        negatives: replies to forget questions: the model's own, or the answers of the rows.
    """
    forget = spread(plain(context.need("fit", "forget")), rows)
    if source == "replies":
        found = forget_contrast(context, forget, chosen, layers, negatives=negatives)
        return {layer: found[layer].mean for layer in layers}
    other = (
        plain(context.need("fit", "retain", "reasoning"))
        if source == "questions"
        else context.need("fit", "unknown")  # its earlier turns are what some models refuse by
    )
    wanted = prompt_states(context, spread(other, rows), layers, "prompts that are aimed at")
    left = prompt_states(context, forget, layers, "prompts to forget")
    return {layer: wanted[layer].mean(0) - left[layer].mean(0) for layer in layers}
