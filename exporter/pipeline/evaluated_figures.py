"""The figures of one model from its rows: a value with its interval, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from exporter.errors import InputErrors
from exporter.estimate import Estimate
from exporter.evaluation.case import is_ordinary
from exporter.evaluation.evaluation_file import EvaluatedFigure
from exporter.evaluation.metrics.base import Evaluated, Metric
from exporter.evaluation.metrics.measured import PARAPHRASE

NO_PASSES = "no log-probabilities are read from graphs and GGUF files"
NO_RETAIN = "no model that was trained without the forget set (--retain-model)"
RETAIN_IS_BASE = "the retain model is the base, or the base under steering, whose weights know the forget set: give one that was trained without it"
RETAIN_IS_THIS = "the retain model is this model itself: it says nothing to compare a model with itself"
LOW = 0.05
"""A figure of the base's that leaves nothing to fall."""


class Seen(NamedTuple):
    """One variant of a model.

    Attributes:
        rows: all that it was asked.
        whole: whether it takes whole passes.
        left_out: how many rows it was not asked, as it does not read them.
        no_retain: why no retain model stands beside it.
    """

    rows: Sequence[Evaluated]
    whole: bool
    left_out: int
    no_retain: str | None

    @property
    def silent(self) -> int:
        """To how many of the rows it says nothing."""
        return sum(not one.case.last.generation.text.strip() for one in self.rows)

    @property
    def plain(self) -> list[Evaluated]:
        """Plain questions in their own words, over which metrics are counted; others are counted in their slices."""
        return [one for one in self.rows if is_ordinary(one.case) and one.case.row.eval_slice != PARAPHRASE]


def figures(
    metrics: Mapping[str, Metric[object]], seen: Sequence[Evaluated], lacks: Mapping[str, str], judge: str
) -> dict[str, EvaluatedFigure]:
    """Every metric over rows, by name.

    Args:
        lacks: needs of metrics that cannot be met for this model, with why.
        judge: whose verdicts count, by name.
    """
    return {name: _figure(metric, seen, lacks, judge) for name, metric in metrics.items()}


def slices(
    metrics: Mapping[str, Metric[object]], seen: Sequence[Evaluated], lacks: Mapping[str, str], judge: str
) -> dict[str, dict[str, EvaluatedFigure]]:
    """The same over the rows of each slice, of those metrics that have any there."""
    names = sorted({one.case.row.eval_slice for one in seen if one.case.row.eval_slice is not None})
    found = {}
    for name in names:
        some = [one for one in seen if one.case.row.eval_slice == name]
        every = figures(metrics, some, lacks, judge)
        found[name] = {
            metric: one for metric, one in every.items() if one.value is not None or one.not_judged
        }
    return found


def no_contrast(metrics: Mapping[str, Metric[object]], base: Mapping[str, EvaluatedFigure]) -> list[str]:
    """Metrics of which low is good and the base's own figure is at most ``LOW``: whoever forgot nothing has a low one too."""
    values = {name: base[name].value for name, metric in metrics.items() if metric.better == "lower"}
    return [name for name, value in values.items() if value is not None and value <= LOW]


def _figure(
    metric: Metric[object], seen: Sequence[Evaluated], lacks: Mapping[str, str], judge: str
) -> EvaluatedFigure:
    lacked = sorted(metric.needs & set(lacks))
    if lacked:
        return EvaluatedFigure(value=None, n=0, why_not="; ".join(lacks[one] for one in lacked))
    not_judged = metric.unjudged(seen) if "judge" in metric.needs or metric.may_be_open else 0
    try:
        one = metric.estimate(seen)
    except InputErrors as error:  # a package that is not installed
        return EvaluatedFigure(value=None, n=0, not_judged=not_judged, why_not="; ".join(error.problems))
    why_not = f"nothing to count: {metric.about}"
    if not_judged:
        who = f"{judge}: " if "judge" in metric.needs else ""
        why_not = f"{who}none of {not_judged} rows could be judged"
    return EvaluatedFigure.of(one, metric.within, not_judged, why_not)


def measured(found: Mapping[str, EvaluatedFigure]) -> dict[str, Estimate]:
    """The figures that have a value."""
    return {name: one.estimate for name, one in found.items() if one.value is not None}
