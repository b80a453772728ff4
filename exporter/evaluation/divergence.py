"""KL from one model to another along replies, in one pass of each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from exporter.errors import NotFinite
from exporter.host import ModelHost
from exporter.types import Encoded


def divergences(base: ModelHost, other: ModelHost, sequences: Sequence[Encoded]) -> list[float]:
    """``1/T sum_t KL(p_base || p_other)`` of each sequence's reply of T tokens, in nats; both models read one padded batch.

    Raises:
        ValueError: the models have vocabularies of different sizes.
        NotFinite: scores of one of them, or the divergence, are no finite numbers.
    """
    logits = [_logits(host, sequences) for host in (base, other)]
    if logits[0].shape[-1] != logits[1].shape[-1]:
        raise ValueError("the models have vocabularies of different sizes")
    found = []
    for row, sequence in enumerate(sequences):
        columns = slice(sequence.prompt_end, len(sequence) - 1)
        ours, theirs = (one[row, columns].float().log_softmax(-1) for one in logits)
        found.append(float((ours.exp() * (ours - theirs)).sum(-1).mean().clamp(min=0)))
        if not math.isfinite(found[-1]):
            raise NotFinite(row)
    return found


def _logits(host: ModelHost, sequences: Sequence[Encoded]) -> Tensor:
    """[B, T, V] on the CPU, where two models on different devices meet."""
    with torch.no_grad():
        found: Tensor = host.model(**host.batch(sequences, "right"), use_cache=False).logits
    return found.cpu()
