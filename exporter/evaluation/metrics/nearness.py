"""How far a model is from its base on kept prompts, and how natural its replies are to the base."""

from __future__ import annotations

import math
from collections.abc import Iterable

from exporter.estimate import Estimate
from exporter.evaluation.metrics import rows
from exporter.evaluation.metrics.base import Evaluated, Metric, Need, Words
from exporter.evaluation.metrics.measured import kept

NEEDS: frozenset[Need] = frozenset({"text", "base", "base log-probabilities"})
POSITIVE = (0.0, math.inf)
PERPLEXITY = (1.0, math.inf)


def _is_compared(seen: Evaluated) -> bool:
    return kept(seen) and seen.divergence is not None


def _divergence(seen: Evaluated) -> float | None:
    """``1/T sum_t KL(p_base(. | prompt, reply_<t) || p_model(. | prompt, reply_<t))`` in nats, along the base's own greedy reply of T tokens."""
    return seen.divergence


def _surprise(seen: Evaluated) -> float | None:
    return seen.surprise


def _forget(seen: Evaluated) -> bool:
    return rows.to_forget(seen) and seen.surprise is not None


def _kept(seen: Evaluated) -> bool:
    return kept(seen) and seen.surprise is not None


def _mean(values: Iterable[float]) -> Estimate:
    return Estimate.spread_mean(values, POSITIVE)


def _perplexity(values: Iterable[float]) -> Estimate:
    """``exp`` of the mean over replies of ``-1/T sum_t log p_base(reply_t | prompt, reply_<t)``, and of its interval's ends."""
    one = Estimate.spread_mean(values, POSITIVE)
    if not one.n:
        return Estimate(0.0, 0, *PERPLEXITY)
    high = math.exp(one.high) if one.high < 700 else math.inf
    return Estimate(math.exp(one.value), one.n, math.exp(one.low), high)


DIVERGENCE = Metric(
    "kl_to_base",
    NEEDS,
    "Retain and reasoning rows",
    _is_compared,
    _divergence,
    "lower",
    Words("KL from the base along its reply, nats a token", in_slices=True),
    _mean,
    unit="nats",
    within=POSITIVE,
)
FORGET_PERPLEXITY = Metric(
    "forget_perplexity",
    NEEDS,
    "Forget rows",
    _forget,
    _surprise,
    None,
    Words("perplexity of the reply under the base", in_slices=True),
    _perplexity,
    unit="",
    within=PERPLEXITY,
)
RETAIN_PERPLEXITY = Metric(
    "retain_perplexity",
    NEEDS,
    "Retain and reasoning rows",
    _kept,
    _surprise,
    "lower",
    Words("perplexity of the reply under the base", in_slices=True),
    _perplexity,
    unit="",
    within=PERPLEXITY,
)
