"""How likely a model finds the expected answer behind the question, whatever it says itself (open-unlearning, https://arxiv.org/abs/2506.12618)."""

from __future__ import annotations

from collections.abc import Callable

from exporter.estimate import Estimate
from exporter.evaluation.extraction_strength import extraction_strength
from exporter.evaluation.metrics import rows
from exporter.evaluation.metrics.base import Better, Evaluated, Metric, Need, Words
from exporter.evaluation.metrics.measured import forced, kept
from exporter.evaluation.row_passes import RowPasses

NEEDS: frozenset[Need] = frozenset({"answer log-probabilities"})


def passes_of(seen: Evaluated) -> RowPasses:
    """The row's passes, of rows that have any."""
    assert seen.passes is not None, "only forced rows count"
    return seen.passes


def probability(seen: Evaluated) -> float:
    """``exp(1/T sum_t log p(answer_t | question, answer_<t))`` (TOFU, https://arxiv.org/abs/2401.06121)."""
    return passes_of(seen).answer.probability


def _strength(seen: Evaluated) -> float:
    answer = passes_of(seen).answer
    return extraction_strength(answer.tokens, answer.likeliest)


def _memorised(seen: Evaluated) -> float:
    """``1/T sum_t [argmax p(. | question, answer_<t) = answer_t]`` (Tirumala et al., https://arxiv.org/abs/2205.10770)."""
    answer = passes_of(seen).answer
    return sum(map(int.__eq__, answer.tokens, answer.likeliest)) / len(answer.tokens)


def near_one(ratio: float) -> float:
    """``min(R, 1/R)`` of a truth ratio: 1 where wrong answers are as likely as the right one, which is good of what was forgotten."""
    return min(ratio, 1 / (ratio + 1e-10))


def true_better(ratio: float) -> float:
    """``max(0, 1 - R)`` of a truth ratio: 1 where wrong answers are impossible, which is good of what is kept."""
    return max(0.0, 1 - ratio)


def ratio_of(seen: Evaluated) -> float:
    """The row's truth ratio, of rows that have wrong answers."""
    found = passes_of(seen).truth_ratio
    assert found is not None, "only rows with wrong answers count"
    return found


def has_ratio(seen: Evaluated) -> bool:
    """The model was forced to wrong answers too."""
    return seen.passes is not None and seen.passes.truth_ratio is not None


def _forget(seen: Evaluated) -> bool:
    return rows.to_forget(seen) and forced(seen)


def _kept(seen: Evaluated) -> bool:
    return kept(seen) and forced(seen)


def _forget_ratio(seen: Evaluated) -> bool:
    return rows.to_forget(seen) and has_ratio(seen)


def _kept_ratio(seen: Evaluated) -> bool:
    return kept(seen) and has_ratio(seen)


def _metric(
    name: str,
    about: str,
    over: Callable[[Evaluated], bool],
    of: Callable[[Evaluated], float],
    better: Better,
    says: str,
) -> Metric[Evaluated]:
    words = Words(says, in_slices=True)
    return Metric(name, NEEDS, about, over, of, better, words, Estimate.spread_mean, unit="")


FORGET = _metric(
    "forget_probability", "Forget rows", _forget, probability, "lower", "probability of the answer"
)
RETAIN = _metric(
    "retain_probability",
    "Retain and reasoning rows",
    _kept,
    probability,
    "higher",
    "probability of the answer",
)
STRENGTH = _metric(
    "answer_extraction_strength",
    "Forget rows",
    _forget,
    _strength,
    "lower",
    "extraction strength of the expected answer",
)
MEMORISED = _metric(
    "exact_memorisation",
    "Forget rows",
    _forget,
    _memorised,
    "lower",
    "tokens of the expected answer that are the model's most likely ones",
)
FORGET_RATIO = _metric(
    "forget_truth_ratio",
    "Forget rows with wrong answers",
    _forget_ratio,
    lambda seen: near_one(ratio_of(seen)),
    "higher",
    "truth ratio, nearness to 1",
)
RETAIN_RATIO = _metric(
    "retain_truth_ratio",
    "Retain and reasoning rows with wrong answers",
    _kept_ratio,
    lambda seen: true_better(ratio_of(seen)),
    "higher",
    "truth ratio, 1 less it",
)
