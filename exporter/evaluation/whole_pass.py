"""One pass over a prompt with a reference reply behind it: the model's argmax at each column, and the probability of the reply.

No labels and no cache, as lm-evaluation-harness and extraction attacks do it: a model must not answer another caller than ``generate``
as its base would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from exporter.errors import NotFinite
from exporter.finite import refuse_not_finite
from exporter.host import ModelHost
from exporter.types import Encoded


@dataclass(frozen=True)
class Forced:
    """A reply of T tokens that was forced on a model.

    Attributes:
        tokens: the reply's, [T].
        likeliest: the model's most likely token in the place of each, [T].
        logprobs: natural logarithm of the probability that the model gives to each, [T], in nats.
    """

    tokens: tuple[int, ...]
    likeliest: tuple[int, ...]
    logprobs: tuple[float, ...]


def whole_pass(host: ModelHost, sequences: Sequence[Encoded], *, batch_size: int) -> list[Forced]:
    """Each sequence's reply as it looks to a model in one pass, in the order given.

    Sequences are padded on the right, so that a column means the same as without padding.

    Raises:
        NotFinite: the model's scores, or the log-probability of a token of a reply, are no finite numbers.
    """
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    found: dict[int, Forced] = {}
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        some = [sequences[i] for i in chosen]
        with torch.no_grad():
            logits = host.model(**host.batch(some, "right"), use_cache=False).logits
        found.update(
            (place, _forced(row, sequences[place], place)) for place, row in zip(chosen, logits, strict=True)
        )
    return [found[i] for i in range(len(sequences))]


def _forced(logits: Tensor, sequence: Encoded, place: int) -> Forced:
    """The reply's columns of one row's logits [T_all, V]."""
    before = logits[sequence.prompt_end : len(sequence) - 1].float()
    refuse_not_finite(before, place)
    tokens = torch.tensor(sequence.response, dtype=torch.long, device=before.device)
    logprobs = before.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    if not bool(logprobs.isfinite().all()):
        raise NotFinite(place)
    return Forced(sequence.response, tuple(before.argmax(-1).tolist()), tuple(logprobs.tolist()))
