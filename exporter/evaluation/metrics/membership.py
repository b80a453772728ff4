"""Whether a text is found to have been trained on, by its least likely tokens.

Min-K% is of https://arxiv.org/abs/2310.16789, PrivLeak of MUSE (https://arxiv.org/abs/2407.06460). The text is given raw, as an auditor of training data gives it: question and answer without a chat template. A gate decides at the
end of a generation header, and a raw text has none: **hiding does not change these figures**, and they say what the weights still hold. Only a
change of weights, a merged checkpoint or an adapter, can move them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from exporter.estimate import Estimate
from exporter.evaluation.metrics import rows
from exporter.evaluation.metrics.base import Evaluated, Metric, Words
from exporter.evaluation.metrics.measured import HOLDOUT, in_order
from exporter.evaluation.row_passes import RowPasses

K = 0.4
"""Share of the tokens that count, as open-unlearning has it for TOFU."""
ABOUT = f"Forget rows, against rows of the slice {HOLDOUT}"


def min_k(logprobs: Sequence[float]) -> float:
    """Mean of the least likely 40% of a text's tokens, at least one, with its sign turned: larger for texts that were not trained on."""
    lowest = sorted(logprobs)[: max(1, int(K * len(logprobs)))]
    return -math.fsum(lowest) / len(lowest)


def auc(members: Sequence[float], others: Sequence[float]) -> float:
    """Share of pairs in which the text that was not trained on has the larger score, ties half: 1 where membership shows, 0.5 where it does not."""
    wins = sum((other > member) + 0.5 * (other == member) for member in members for other in others)
    return wins / (len(members) * len(others))


def _raw(seen: Evaluated) -> RowPasses | None:
    return seen.passes


def _retained(seen: Evaluated) -> RowPasses | None:
    return seen.retained


def _is_holdout(seen: Evaluated) -> bool:
    return seen.case.row.eval_slice == HOLDOUT


def _is_asked(seen: Evaluated) -> bool:
    return seen.passes is not None and bool(seen.passes.raw) and (rows.to_forget(seen) or _is_holdout(seen))


def _auc(seen: Sequence[Evaluated], of: Callable[[Evaluated], RowPasses | None] = _raw) -> float | None:
    """Of the rows as one model sees them; None without rows of both kinds."""
    scores = [(_is_holdout(one), min_k(found.raw)) for one in seen if (found := of(one)) is not None]
    members, others = ([score for held, score in scores if held == wanted] for wanted in (False, True))
    return auc(members, others) if members and others else None


def _membership(seen: Sequence[Evaluated]) -> Estimate:
    value = _auc(seen)
    if value is None:
        return Estimate(0.0, 0, 0.0, 1.0)
    found = Estimate.bootstrap(in_order(seen), lambda some: value if (one := _auc(some)) is None else one)
    return Estimate(value, found.n, found.low, found.high)


def _leak(seen: Sequence[Evaluated]) -> Estimate:
    """``(AUC - AUC of the retain model) / AUC of the retain model * 100``, in percent; 0.5 stands for that of a retain model where none is given.

    0: as if it had never been trained on the forget set.
    """
    if _auc(seen) is None:
        return Estimate.without_interval(0.0, 0)

    def relative(some: Sequence[Evaluated]) -> float:
        ours, theirs = _auc(some), _auc(some, _retained)
        reference = 0.5 if theirs is None else theirs
        return 0.0 if ours is None else (ours - reference) / (reference + 1e-10) * 100

    return Estimate.bootstrap(in_order(seen), relative, (-math.inf, math.inf))


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
