"""The head of a model over the columns that a loss reads: of a conversation those are its reply, and a vocabulary is wide."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def before_labels(values: Tensor, labels: Tensor) -> Tensor:
    """What stands in the columns behind which a token is labelled, row by row.

    Args:
        values: [B, T, ...].
        labels: int64 [B, T], -100 where there is none.

    Returns:
        [N, ...], N the labelled tokens but those of the first column, before which there is nothing.
    """
    return values[:, :-1][labelled(labels)]


def labelled(labels: Tensor) -> Tensor:
    """Where a token is labelled, first column aside: bool [B, T - 1]."""
    return labels[:, 1:] != -100


@contextmanager
def head_over(model: Any, labels: Tensor | None) -> Iterator[list[torch.Size]]:
    """Has the head of a model compute its logits as [1, N, V], of the columns of :func:`before_labels` alone.

    Yields:
        The shapes that were cut; none if the model has no head, or one that reads something else than a state a token. Its logits are then of every column.
    """
    cut: list[torch.Size] = []
    head = _head(model)
    if head is None or labels is None:
        yield cut
        return

    def only(part: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        del part
        if not inputs or inputs[0].shape[:-1] != labels.shape:
            return None
        cut.append(inputs[0].shape)
        return (before_labels(inputs[0], labels.to(inputs[0].device))[None], *inputs[1:])

    hook = head.register_forward_pre_hook(only)
    try:
        yield cut
    finally:
        hook.remove()


def _head(model: Any) -> nn.Module | None:
    """Of a model as it trains; what wraps it for its processes calls it ``module``."""
    while "module" in getattr(model, "_modules", {}):
        model = model.module
    found = model.get_output_embeddings()
    return found if isinstance(found, nn.Module) else None
