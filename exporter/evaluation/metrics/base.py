"""The contract of a metric: one figure of a model over rows, with its texts for readers.

Light on purpose: terminal, card and page read these texts without importing PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

from exporter.estimate import SHARE, Estimate

if TYPE_CHECKING:
    from exporter.evaluation.case import Case
    from exporter.evaluation.extraction import Extraction
    from exporter.evaluation.refusals import RefusalRule

Need = Literal["text", "tokens", "gates", "base", "checkpoint", "log-probabilities"]
GENERATED: frozenset[Need] = frozenset({"text", "tokens", "gates", "base"})
"""What is available about replies: text, ids and gates, and the base's replies to the same rows."""
COMPARED: frozenset[Need] = frozenset({"text", "tokens", "checkpoint"})
"""What is available when another target is compared with the checkpoint."""
ONE_PASS: frozenset[Need] = frozenset({"log-probabilities", "base"})
"""What is available about one pass over reference replies."""
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
        of: its value in one row: whether it is counted in, of a share.
        better: which way is good of the steered model; None where neither is.
        aggregate: from the values of rows to the figure.
        unit: ``share``; of any other figure its unit, or nothing.
        within: least and largest value that there can be.
        tells_least: whether the smallest value of a row is also reported, as ``least``.
    """

    name: str
    needs: frozenset[Need]
    about: str
    over: Callable[[Seen], bool]
    of: Callable[[Seen], float]
    better: Better | None
    words: Words
    aggregate: Callable[[Iterable[Any]], Estimate] = field(default=Estimate.share)
    unit: str = "share"
    within: tuple[float, float] = SHARE
    tells_least: bool = False

    def estimate(self, seen: Iterable[Seen]) -> Estimate:
        """The figure over the rows that count."""
        return self.aggregate(self.values(seen))

    def values(self, seen: Iterable[Seen]) -> list[float]:
        """The value of each row that counts."""
        return [self.of(one) for one in seen if self.over(one)]

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
