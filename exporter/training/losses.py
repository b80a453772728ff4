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
    wanted = labels[:, 1:]
    losses = functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), wanted, ignore_index=-100, reduction="none"
    )
    return losses, wanted != -100


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
    labelled = labels[:, 1:] != -100
    wanted = reference[:, :-1].float().log_softmax(-1)
    found = logits[:, :-1].float().log_softmax(-1)
    each = (wanted.exp() * (wanted - found)).sum(-1)
    return (each * labelled).sum(-1) / labelled.sum(-1).clamp_min(1)


def soft_nll(target: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy to target distributions, the mean over the labelled tokens of each response: float32 [B].

    Args:
        target: logits [B, T, V] of the distributions.
    """
    labelled = labels[:, 1:] != -100
    each = -(target[:, :-1].float().softmax(-1) * logits[:, :-1].float().log_softmax(-1)).sum(-1)
    return (each * labelled).sum(-1) / labelled.sum(-1).clamp_min(1)


def mean_square(states: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference over the masked columns of each row: float32 [B]; 0 for a row without any.

    Args:
        states, wanted: [B, T, d], or what broadcasts to it.
        mask: bool [B, T].
    """
    each = (states.float() - wanted.float()).square().mean(-1)
    return torch.where(mask, each, torch.zeros_like(each)).sum(-1) / mask.sum(-1).clamp_min(1)
