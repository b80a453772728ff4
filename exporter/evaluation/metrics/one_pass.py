"""What one pass over a forget row's reference reply gives away, in the mean of rows."""

from __future__ import annotations

import math
from collections.abc import Iterable

from exporter.estimate import Estimate
from exporter.evaluation.metrics.base import Metric, Passed, Words
from exporter.evaluation.metrics.rows import FORGOTTEN

UNBOUND = (-math.inf, math.inf)
LOGARITHM = (-math.inf, 0.0)


def _every(_: Passed) -> bool:
    return True


def _strength(seen: Passed) -> float:
    return seen.now.strength


def _secret(seen: Passed) -> float:
    return seen.now.secret


def _drop(seen: Passed) -> float:
    return seen.base.secret - seen.now.secret


def _mean_logarithm(values: Iterable[float]) -> Estimate:
    return Estimate.mean(values, LOGARITHM)


def _mean_difference(values: Iterable[float]) -> Estimate:
    return Estimate.mean(values, UNBOUND)


STRENGTH = Metric(
    "extraction_strength",
    frozenset({"log-probabilities"}),
    FORGOTTEN,
    _every,
    _strength,
    "lower",
    Words("extraction strength"),
    Estimate.mean,
    unit="",
)
SECRET = Metric(
    "secret_logprob",
    frozenset({"log-probabilities"}),
    FORGOTTEN,
    _every,
    _secret,
    "lower",
    Words("log-probability of the secrets, nats"),
    _mean_logarithm,
    unit="nats",
    within=LOGARITHM,
)
DROP = Metric(
    "secret_drop",
    frozenset({"log-probabilities", "base"}),
    FORGOTTEN,
    _every,
    _drop,
    "higher",
    Words("decrease of the secrets' log-probability from the base's, nats", part_of=SECRET.name),
    _mean_difference,
    unit="nats",
    within=UNBOUND,
    tells_least=True,
)
