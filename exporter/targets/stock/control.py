"""The written model held against the base, against its own twin with the inserted layers zeroed, and against the exact program."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from exporter.host import ModelHost
from exporter.types import Conversation, Encoded
from steer_modules.attach import steered
from steer_modules.program import SteeringProgram


@dataclass(frozen=True)
class Comparison:
    """What a stock model does on conversations; shares of them.

    Attributes:
        kept: conversations at which the exact gate stays off.
        fired: conversations about the forgotten at which it fires.
        twin_identical: kept and fired ones whose logits the zeroed twin has bit for bit as the base.
        logits_identical: kept ones whose logits, prompt and answer, are bit for bit the base's.
        tokens_identical: kept ones with the base's very answer.
        steered: fired ones at which it is closer to the exact model than to the base: it does steer there.
        exact_tokens: fired ones with the exact model's very answer.
        divergence: mean KL(exact, stock) in nats, over the positions of the exact model's answers to fired ones.
    """

    kept: int
    fired: int
    twin_identical: float
    logits_identical: float
    tokens_identical: float
    steered: float
    exact_tokens: float
    divergence: float


def compare(
    base: ModelHost,
    stock: ModelHost,
    program: SteeringProgram,
    inserted: Sequence[int],
    conversations: Sequence[Conversation],
    *,
    max_new_tokens: int,
    batch_size: int = 16,
) -> Comparison:
    """Let base, stock model, twin and exact program answer the same conversations.

    Args:
        base: unsteered; its dtype is that of the stock model.
        inserted: places of the inserted layers in the stock model.
    """
    prompts = [one.prompt for one in conversations]
    options = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    before, after = base.generate(prompts, **options), stock.generate(prompts, **options)
    with steered(base.model, program):
        exact = base.generate(prompts, **options)
    fires = [bool(one.gates and max(one.gates.values()) > 0) for one in exact]
    kept = [i for i, one in enumerate(conversations) if not fires[i] and one.role != "forget"]
    fired = [i for i, one in enumerate(conversations) if fires[i] and one.role == "forget"]
    continuations = {i: Encoded(prompts[i], before[i].tokens) for i in kept}
    continuations |= {i: Encoded(prompts[i], exact[i].tokens) for i in fired}
    same: dict[int, bool] = {}
    twin: dict[int, bool] = {}
    for chosen in _batches([*kept, *fired], batch_size):
        sequences = [continuations[i] for i in chosen]
        reference, ours = logits_of(base, sequences), logits_of(stock, sequences)
        with zeroed(stock, inserted):
            idle = logits_of(stock, sequences)
        for i, a, b, c in zip(chosen, reference, ours, idle, strict=True):
            same[i], twin[i] = bool(torch.equal(a, b)), bool(torch.equal(a, c))
    apart = [_divergences(base, stock, program, continuations[i]) for i in fired]
    return Comparison(
        kept=len(kept),
        fired=len(fired),
        twin_identical=_share([twin[i] for i in (*kept, *fired)]),
        logits_identical=_share([same[i] for i in kept]),
        tokens_identical=_share([before[i].tokens == after[i].tokens for i in kept]),
        steered=_share([_steers(one) for one in apart]),
        exact_tokens=_share([exact[i].tokens == after[i].tokens for i in fired]),
        divergence=float(torch.cat([one.exact for one in apart]).mean()) if apart else 0.0,
    )


def logits_of(host: ModelHost, sequences: Sequence[Encoded]) -> list[Tensor]:
    """Logits [T, V] of each sequence of one batch, on the CPU."""
    with torch.no_grad():
        found = host.model(**host.batch(sequences, "right"), use_cache=False).logits
    return [found[row, : len(sequence)].cpu() for row, sequence in enumerate(sequences)]


@contextmanager
def zeroed(host: ModelHost, layers: Sequence[int]) -> Iterator[None]:
    """The model with the ways out of some layers zeroed, so that they add nothing: what the base is, made of the same parts."""
    ways = [getattr(host.blocks[i], part) for i in layers for part in ("self_attn", "mlp")]
    weights = [(way.o_proj if hasattr(way, "o_proj") else way.down_proj).weight for way in ways]
    kept = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight in weights:
                weight.zero_()
        yield
    finally:
        with torch.no_grad():
            for weight, values in zip(weights, kept, strict=True):
                weight.copy_(values)


class _Apart(NamedTuple):
    """KL(exact, stock) and KL(base, stock) in nats [T], from the prompt end to the position before the last token of a reply."""

    exact: Tensor
    base: Tensor


def _divergences(
    base: ModelHost, stock: ModelHost, program: SteeringProgram, continuation: Encoded
) -> _Apart:
    """One conversation at a time, as a batch may move logits by a rounding."""
    (plain,), (ours,) = logits_of(base, [continuation]), logits_of(stock, [continuation])
    with steered(base.model, program):
        (exact,) = logits_of(base, [continuation])
    places = slice(continuation.prompt_end, len(continuation) - 1)
    p, q, r = (logits[places].double().log_softmax(-1) for logits in (exact, ours, plain))
    return _Apart((p.exp() * (p - q)).sum(-1), (r.exp() * (r - q)).sum(-1))


def _steers(apart: _Apart) -> bool:
    """Logits that are not the base's are not enough: an edit that is only begun changes them, and tells all the same."""
    return bool(apart.exact.mean() < apart.base.mean())


def _batches(items: Sequence[int], size: int) -> list[Sequence[int]]:
    return [items[first : first + size] for first in range(0, len(items), size)]


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits) if hits else 1.0
