"""Losses of conversations: one value each, so that a mean over any number of processes is the mean over all of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def token_losses(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """-log p of every labelled token.

    Args:
        logits: [B, T, V].
        labels: int64 [B, T], -100 where there is none.

    Returns:
        Losses float32 [B, T - 1], 0 where there is no label, and bool [B, T - 1], where there is one.
    """
    labelled = _labelled(labels)
    wanted = labels[:, 1:][labelled]
    losses = functional.cross_entropy(_before(logits, labelled), wanted, reduction="none")
    return _by_row(losses, labelled), labelled


def sequence_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p of each response, the sum over its tokens: float32 [B]."""
    return token_losses(logits, labels)[0].sum(-1)


def mean_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p of each response, the mean over its tokens: float32 [B]."""
    losses, labelled = token_losses(logits, labels)
    return losses.sum(-1) / labelled.sum(-1).clamp_min(1)


def divergence(reference: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """KL(reference || model) in nats, the mean over the labelled tokens of each response: float32 [B].

    Args:
        reference, logits: [B, T, V].
    """
    labelled = _labelled(labels)
    wanted = _before(reference, labelled).log_softmax(-1)
    found = _before(logits, labelled).log_softmax(-1)
    each = _by_row((wanted.exp() * (wanted - found)).sum(-1), labelled)
    return each.sum(-1) / labelled.sum(-1).clamp_min(1)


def soft_nll(target: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy to target distributions, the mean over the labelled tokens of each response: float32 [B].

    Args:
        target: logits [B, T, V] of the distributions.
    """
    labelled = _labelled(labels)
    wanted = _before(target, labelled).softmax(-1)
    each = _by_row(-(wanted * _before(logits, labelled).log_softmax(-1)).sum(-1), labelled)
    return each.sum(-1) / labelled.sum(-1).clamp_min(1)


def mean_square(states: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference over the masked columns of each row: float32 [B]; 0 for a row without any.

    Args:
        states, wanted: [B, T, d], or what broadcasts to it.
        mask: bool [B, T].
    """
    each = (states.float() - wanted.float()).square().mean(-1)
    return torch.where(mask, each, torch.zeros_like(each)).sum(-1) / mask.sum(-1).clamp_min(1)


def _labelled(labels: Tensor) -> Tensor:
    return labels[:, 1:] != -100


def _before(logits: Tensor, labelled: Tensor) -> Tensor:
    """What is expected where a token is labelled: float32 [N, V]. A softmax over every column of a batch costs as much as half of the model."""
    return logits[:, :-1][labelled].float()


def _by_row(values: Tensor, labelled: Tensor) -> Tensor:
    """Values [N] of labelled tokens in their places, 0 elsewhere: [B, T - 1]."""
    return values.new_zeros(labelled.shape).masked_scatter(labelled, values)
