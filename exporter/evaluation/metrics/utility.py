"""Model utility and forget quality of TOFU (https://arxiv.org/abs/2401.06121), as open-unlearning computes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from exporter.errors import InputErrors
from exporter.estimate import Estimate
from exporter.evaluation.metrics import rows
from exporter.evaluation.metrics.base import Evaluated, Metric, Words
from exporter.evaluation.metrics.measured import in_order, kept
from exporter.evaluation.metrics.probability import has_ratio, passes_of, probability, ratio_of, true_better
from exporter.evaluation.metrics.rouge import INSTALL, recall

FEWEST = 4
"""Rows of a test whose smallest p-value, 2 / C(2n, n), is below 0.05."""


class _Utility(NamedTuple):
    """One kept row: the set that it is of, and what of it enters the utility."""

    set: str
    parts: tuple[float, float, float]


def _of_set(seen: Evaluated) -> str:
    return seen.case.row.eval_slice or seen.case.row.role


def _is_useful(seen: Evaluated) -> bool:
    return kept(seen) and has_ratio(seen)


def _utility(seen: Sequence[Evaluated]) -> Estimate:
    """Harmonic mean of what is kept, with the bootstrap's interval over rows.

    Over every set of kept rows (a slice, or the role of rows without one), and over probability, ROUGE-L recall and truth ratio
    (``max(0, 1 - R)``), of each one's mean over the set: 9 numbers in TOFU.
    """
    found = [
        _Utility(_of_set(one), (probability(one), recall(one), true_better(ratio_of(one))))
        for one in in_order(seen)
    ]
    return Estimate.bootstrap(found, harmonic)


def harmonic(found: Sequence[_Utility]) -> float:
    """The harmonic mean of the means of each set's parts; 0 where one is 0."""
    means = []
    for name in dict.fromkeys(one.set for one in found):
        some = [one.parts for one in found if one.set == name]
        means += [sum(part) / len(some) for part in zip(*some, strict=True)]
    return len(means) / sum(1 / one for one in means) if all(means) else 0.0


def _is_compared(seen: Evaluated) -> bool:
    both = has_ratio(seen) and seen.retained is not None and seen.retained.truth_ratio is not None
    return rows.to_forget(seen) and both


def _quality(seen: Sequence[Evaluated]) -> Estimate:
    """p-value of a two-sample Kolmogorov-Smirnov test.

    Between the truth ratios of this model and of one that never saw the forget set, over the forget rows: 1, they cannot be told apart;
    below 0.05, they can. It has no interval, and grows small with the number of rows: fewer than ``FEWEST`` could not fall below 0.05 whatever
    they said, and are no test.
    """
    if len(seen) < FEWEST:
        return Estimate(0.0, 0, 0.0, 1.0)
    try:
        from scipy.stats import ks_2samp
    except ImportError:
        raise InputErrors(
            "forget_quality", [f"the package scipy is needed and is not installed: {INSTALL}"]
        ) from None
    ours = [passes_of(one).truth_ratio for one in seen]
    theirs = [one.retained.truth_ratio for one in seen if one.retained is not None]
    return Estimate.without_interval(float(ks_2samp(ours, theirs).pvalue), len(seen), (0.0, 1.0))


def _no_value(_: Evaluated) -> None:
    return None


UTILITY = Metric(
    "model_utility",
    frozenset({"text", "answer log-probabilities"}),
    "Retain and reasoning rows with wrong answers",
    _is_useful,
    _no_value,
    "higher",
    Words("model utility"),
    unit="",
    whole=_utility,
)
QUALITY = Metric(
    "forget_quality",
    frozenset({"answer log-probabilities", "retain model"}),
    f"Forget rows with wrong answers, {FEWEST} at least, and a retain model",
    _is_compared,
    _no_value,
    "higher",
    Words("forget quality, p-value"),
    unit="",
    whole=_quality,
)
