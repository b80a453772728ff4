"""Whether a model's scores are numbers: of a model that overflows, or whose weights are damaged, the likeliest token is an accident."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from exporter.errors import NotFinite


def refuse_not_finite(logits: Tensor, place: int) -> None:
    """Raises NotFinite, for the prompt in this place, where logits [T, V] have no finite maximum in a column: words that are ruled out may be -inf."""
    if not bool(logits.amax(-1).isfinite().all()):
        raise NotFinite(place)


class FiniteScores(LogitsProcessor):
    """Leaves scores as they are, and raises NotFinite for the first row of a batch that has none.

    Args:
        places: of the rows of the batch, in the order in which their prompts were given.
    """

    def __init__(self, places: Sequence[int]) -> None:
        self.places = places

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [B, V] as they are."""
        del input_ids
        broken = ~scores.amax(-1).isfinite()
        if bool(broken.any()):
            raise NotFinite(self.places[int(torch.nonzero(broken)[0])])
        return scores
