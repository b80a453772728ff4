"""The contract of a metric: one figure of a model over rows, with its texts for readers.

Light on purpose: terminal, card and page read these texts without importing PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

from exporter.estimate import SHARE, Estimate

if TYPE_CHECKING:
    from exporter.evaluation.case import Case
    from exporter.evaluation.extraction import Extraction
    from exporter.evaluation.refusals import RefusalRule
    from exporter.evaluation.row_passes import RowPasses

Need = Literal[
    "text",
    "tokens",
    "gates",
    "base",
    "checkpoint",
    "log-probabilities",
    "evaluation",
    "answer log-probabilities",
    "base log-probabilities",
    "judge",
    "retain model",
]
GENERATED: frozenset[Need] = frozenset({"text", "tokens", "gates", "base"})
"""What is available about replies: text, ids and gates, and the base's replies to the same rows."""
COMPARED: frozenset[Need] = frozenset({"text", "tokens", "checkpoint"})
"""What is available when another target is compared with the checkpoint."""
ONE_PASS: frozenset[Need] = frozenset({"log-probabilities", "base"})
"""What is available about one pass over reference replies."""
EVALUATED: frozenset[Need] = GENERATED | {
    "evaluation",
    "answer log-probabilities",
    "base log-probabilities",
    "judge",
    "retain model",
}
"""What is available to ``steerbake evaluate``. Its own metrics need one of these five, so that no report of a run waits for them:

``evaluation``: an evaluation alone; ``answer log-probabilities``: passes over the expected, reworded and wrong answers and the raw text;
``base log-probabilities``: passes of the base over the replies, and of both over the base's; ``judge``: verdicts on replies; ``retain model``:
the passes of a model that was trained without the forget set.
"""
Better = Literal["lower", "higher"]
Seen = TypeVar("Seen")


@dataclass(frozen=True)
class Answered:
    """One row as one model answered it, with what the answer is held against.

    Attributes:
        others: by row id, the base's answers, or the checkpoint's when another target is compared with it.
        rule: what counts as a fluent refusal.
    """

    case: Case
    others: Mapping[str, Case]
    rule: RefusalRule

    @property
    def other(self) -> Case:
        """The other model's answer to the same row."""
        return self.others[self.case.row.id]


@dataclass(frozen=True)
class Evaluated(Answered):
    """The same as ``steerbake evaluate`` sees it.

    Attributes:
        passes: the model's passes over the row's answers; None of a model that takes none, and of rows that cannot be forced.
        retained: those of the retain model.
        divergence: KL(base || model) in nats a token along the base's reply; None where it was not measured.
        surprise: negative log-probability of a token of the reply under the base, in nats, in the mean; None likewise.
        verdicts: the judge's, by what was asked; what it could not judge is left out.
    """

    passes: RowPasses | None = None
    retained: RowPasses | None = None
    divergence: float | None = None
    surprise: float | None = None
    verdicts: Mapping[str, float] = field(default_factory=dict)


class Passed(NamedTuple):
    """One row's reference reply in one pass of a model, and of the base."""

    now: Extraction
    base: Extraction


@dataclass(frozen=True)
class Words:
    """The texts of a metric for readers.

    Attributes:
        says: what the share counts.
        rank: its place on card and page; those of the same rows stand together.
        part_of: the metric of which it is a part; short summaries show only that metric.
        in_slices: whether it is shown for slices of rows, such as conversations.
        headline: what the model does in that share of rows, on top of the page.
        beside_base: whether the headline has the base's figure beside it.
        sentence: on top of the card, with ``{share}``, ``{interval}``, ``{questions}``, ``{held_out}`` and ``{beside}`` to fill in.
        if_few: the same if there are too few rows, with ``{count}`` and ``{n}`` too; None for no sentence.
    """

    says: str
    rank: int = 100
    part_of: str | None = None
    in_slices: bool = False
    headline: str | None = None
    beside_base: bool = False
    sentence: str | None = None
    if_few: str | None = None


@dataclass(frozen=True)
class Metric(Generic[Seen]):
    """One figure of a model. A file with one, and a line in the registry, are all there is to add.

    Attributes:
        name: its key in report.json and verification.json.
        needs: what ``over`` and ``of`` use; it is measured if all of that is available.
        about: the rows it is counted over, in words.
        over: whether a row is counted.
        of: its value in one row: whether it is counted in, of a share. None: nobody could judge it, and it is counted neither way.
        better: which way is good of the steered model; None where neither is.
        aggregate: from the values of rows to the figure.
        unit: ``share``; of any other figure its unit, or nothing.
        within: least and largest value that there can be.
        tells_least: whether the smallest value of a row is also reported, as ``least``.
        may_be_open: whether a reply may leave open what is measured, without a judge; such rows are told as not judged.
        whole: from the rows that count to the figure, where that is no aggregate of their values.
    """

    name: str
    needs: frozenset[Need]
    about: str
    over: Callable[[Seen], bool]
    of: Callable[[Seen], float | None]
    better: Better | None
    words: Words
    aggregate: Callable[[Iterable[Any]], Estimate] = field(default=Estimate.share)
    unit: str = "share"
    within: tuple[float, float] = SHARE
    tells_least: bool = False
    whole: Callable[[Sequence[Any]], Estimate] | None = None
    may_be_open: bool = False

    def estimate(self, seen: Iterable[Seen]) -> Estimate:
        """The figure over the rows that count."""
        if self.whole is not None:
            return self.whole([one for one in seen if self.over(one)])
        return self.aggregate(self.values(seen))

    def values(self, seen: Iterable[Seen]) -> list[float]:
        """The value of each row that counts and was judged."""
        return [value for one in seen if self.over(one) and (value := self.of(one)) is not None]

    def unjudged(self, seen: Iterable[Seen]) -> int:
        """How many rows would count, had they been judged."""
        return 0 if self.whole else sum(self.of(one) is None for one in seen if self.over(one))

    def read(self, figure: Mapping[str, Any], rows: str = "n") -> Estimate:
        """A figure from a file, as :meth:`Estimate.as_dict` has it.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        if self.unit == "share":
            return Estimate.read(figure, rows)
        low, high = figure["interval"]
        ends = (-math.inf if low is None else float(low), math.inf if high is None else float(high))
        return Estimate(float(figure["value"]), int(figure[rows]), *ends)

    def is_few(self, one: Estimate) -> bool:
        """Whether a share has too few rows for a conclusion."""
        return self.unit == "share" and one.few


def unregistered(name: str) -> Metric[object]:
    """How a metric is read that a file has and this installation has not: as a share of which nothing more is known."""
    words = Words(name.replace("_", " "))
    return Metric(name, frozenset(), "", lambda _: False, lambda _: 0.0, None, words)
