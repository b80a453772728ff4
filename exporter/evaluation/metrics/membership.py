"""Whether a text is found to have been trained on, by its least likely tokens.

Min-K% is of https://arxiv.org/abs/2310.16789, PrivLeak of MUSE (https://arxiv.org/abs/2407.06460). The text is given raw, as an auditor of training data
gives it: question and answer without a chat template. Gates that decide at the end of a generation header find none there, so a checkpoint with such
gates alone has its base's figures. A gate of pool ``token`` reads every column and fires on raw text too: the figures move, although the weights
still hold what is hidden.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from exporter.estimate import Estimate
from exporter.evaluation.metrics import rows
from exporter.evaluation.metrics.base import Evaluated, Metric, Words
from exporter.evaluation.metrics.measured import HOLDOUT, in_order

K = 0.4
"""Share of the tokens that count, as open-unlearning has it for TOFU."""
ABOUT = f"Forget rows, against rows of the slice {HOLDOUT}"


def min_k(logprobs: Sequence[float]) -> float:
    """Mean of the least likely 40% of a text's tokens, at least one, with its sign turned: larger for texts that were not trained on."""
    lowest = sorted(logprobs)[: max(1, int(K * len(logprobs)))]
    return -math.fsum(lowest) / len(lowest)


def auc(members: Sequence[float], others: Sequence[float]) -> float:
    """Share of pairs in which the text that was not trained on has the larger score, ties half: 1 where membership shows, 0.5 where it does not."""
    known = sorted(members)
    wins = sum(bisect_left(known, other) + bisect_right(known, other) for other in others)
    return wins / (2 * len(members) * len(others))


class _Scored(NamedTuple):
    """One text: whether no model was trained on it, and its scores by this model and by the retain model."""

    held: bool
    ours: float
    theirs: float | None


def _is_asked(seen: Evaluated) -> bool:
    held = seen.case.row.eval_slice == HOLDOUT
    return seen.passes is not None and bool(seen.passes.raw) and (rows.to_forget(seen) or held)


def _scored(seen: Sequence[Evaluated]) -> list[_Scored]:
    found = []
    for one in in_order(seen):
        assert one.passes is not None, "only forced rows count"
        theirs = None if one.retained is None else min_k(one.retained.raw)
        found.append(_Scored(one.case.row.eval_slice == HOLDOUT, min_k(one.passes.raw), theirs))
    return found


def _auc(scored: Sequence[_Scored]) -> float | None:
    """Of the rows as this model sees them; None without rows of both kinds."""
    members, others = ([one.ours for one in scored if one.held == held] for held in (False, True))
    return auc(members, others) if members and others else None


def _reference(scored: Sequence[_Scored]) -> float:
    """The same of the retain model, or 0.5 where there is none."""
    theirs = [one._replace(ours=one.theirs) for one in scored if one.theirs is not None]
    found = _auc(theirs)
    return 0.5 if found is None else found


def _membership(seen: Sequence[Evaluated]) -> Estimate:
    """AUC of :func:`min_k` between the forget rows and those that were not trained on; the bootstrap's interval."""
    scored = _scored(seen)
    value = _auc(scored)
    if value is None:
        return Estimate(0.0, 0, 0.0, 1.0)
    return Estimate.bootstrap(scored, lambda some: value if (one := _auc(some)) is None else one)


def _leak(seen: Sequence[Evaluated]) -> Estimate:
    """``(AUC - AUC of the retain model) / AUC of the retain model * 100``, in percent; 0.5 stands for that of a retain model where none is given.

    0: as if it had never been trained on the forget set.
    """
    scored = _scored(seen)
    if _auc(scored) is None:
        return Estimate.without_interval(0.0, 0)

    def relative(some: Sequence[_Scored]) -> float:
        ours, reference = _auc(some), _reference(some)
        return 0.0 if ours is None else (ours - reference) / (reference + 1e-10) * 100

    return Estimate.bootstrap(scored, relative, (-math.inf, math.inf))


def _no_value(_: Evaluated) -> None:
    return None


MEMBERSHIP = Metric(
    "min_k_auc",
    frozenset({"answer log-probabilities"}),
    ABOUT,
    _is_asked,
    _no_value,
    "lower",
    Words("AUC of Min-K% on raw text"),
    unit="",
    whole=_membership,
)
LEAK = Metric(
    "priv_leak",
    frozenset({"answer log-probabilities"}),
    ABOUT,
    _is_asked,
    _no_value,
    None,
    Words("PrivLeak, percent"),
    unit="%",
    within=(-math.inf, math.inf),
    whole=_leak,
)
