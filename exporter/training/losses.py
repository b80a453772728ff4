"""Losses of conversations: one value each, so that a mean over any number of processes is the mean over all of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from exporter.training.labelled_columns import before_labels, labelled


def token_losses(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """-log p of every labelled token.

    Args:
        logits: [N, V] of the columns before labelled tokens, as a pass of a step has them; or [B, T, V] of all.
        labels: int64 [B, T], -100 where there is none.

    Returns:
        Losses float32 [B, T - 1], 0 where there is no label, and bool [B, T - 1], where there is one.
    """
    there = labelled(labels)
    losses = functional.cross_entropy(_before(logits, labels), labels[:, 1:][there], reduction="none")
    return _by_row(losses, there), there


def sequence_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p of each response, the sum over its tokens: float32 [B]."""
    return token_losses(logits, labels)[0].sum(-1)


def mean_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p of each response, the mean over its tokens: float32 [B]."""
    losses, there = token_losses(logits, labels)
    return losses.sum(-1) / there.sum(-1).clamp_min(1)


def divergence(reference: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """KL(reference || model) in nats, the mean over the labelled tokens of each response: float32 [B].

    Args:
        reference, logits: [N, V] or [B, T, V], as for :func:`token_losses`.
    """
    there = labelled(labels)
    wanted = _before(reference, labels).log_softmax(-1)
    found = _before(logits, labels).log_softmax(-1)
    each = _by_row((wanted.exp() * (wanted - found)).sum(-1), there)
    return each.sum(-1) / there.sum(-1).clamp_min(1)


def soft_nll(target: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy to target distributions, the mean over the labelled tokens of each response: float32 [B].

    Args:
        target: logits of the distributions, [N, V] or [B, T, V].
    """
    there = labelled(labels)
    wanted = _before(target, labels).softmax(-1)
    each = _by_row(-(wanted * _before(logits, labels).log_softmax(-1)).sum(-1), there)
    return each.sum(-1) / there.sum(-1).clamp_min(1)


def mean_square(states: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference over the masked columns of each row: float32 [B]; 0 for a row without any.

    Args:
        states, wanted: [B, T, d], or what broadcasts to it.
        mask: bool [B, T].
    """
    each = (states.float() - wanted.float()).square().mean(-1)
    return torch.where(mask, each, torch.zeros_like(each)).sum(-1) / mask.sum(-1).clamp_min(1)


def _before(logits: Tensor, labels: Tensor) -> Tensor:
    """What is expected where a token is labelled: float32 [N, V]. A softmax over every column of a batch costs as much as half of the model."""
    return (before_labels(logits, labels) if logits.dim() > 2 else logits).float()


def _by_row(values: Tensor, there: Tensor) -> Tensor:
    """Values [N] of labelled tokens in their places, 0 elsewhere: [B, T - 1]."""
    return values.new_zeros(there.shape).masked_scatter(there, values)
