"""The metrics of a verification as text for readers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from exporter import registry
from exporter.errors import VerificationError
from exporter.estimate import Estimate
from exporter.evaluation.metrics.base import Metric, unregistered
from exporter.renamed import METRICS, UNLEARNING, with_current_names

BASE, STEERED = "base", "steered"


def metric_of(name: str) -> Metric[object]:
    """The metric of a name in a file, which another installation may have written."""
    return registry.metrics().get(name) or unregistered(name)


def measured(name: str, figure: Any) -> Estimate:
    """Read ``{"value", "rows", "interval": [low, high]}``.

    Raises:
        VerificationError: it is no such figure; a card must not print what nobody measured.
    """
    least, most = metric_of(name).within
    try:
        rows, value = figure["rows"], float(figure["value"])
        low, high = figure["interval"]
        low, high = least if low is None else float(low), most if high is None else float(high)
        whole = isinstance(rows, int) and not isinstance(rows, bool) and rows >= 0
        if not whole or not least <= low <= high <= most or not math.isfinite(value):
            raise ValueError
        if rows and not (least <= value <= most and low - 1e-9 <= value <= high + 1e-9):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise VerificationError(
            f"{name} in the verification is {figure!r}; expected a value with its rows and interval; verify again"
        ) from None
    return Estimate(value, rows, low, high)


def shown(one: Estimate) -> str:
    """A share as ``98.3%``; a dash where nothing was counted, the count where too little was to tell anything."""
    if one.few:
        return f"too few rows: {one.count} of {one.n}"
    return percent(one.value) if one.n else "–"


def interval(one: Estimate) -> str:
    """That of a share as ``0.0 to 16.1%``; empty where nothing was counted."""
    return f"{100 * one.low:.1f} to {100 * one.high:.1f}%" if one.n else ""


@dataclass(frozen=True)
class Line:
    """One metric of every model that was measured."""

    metric: Metric[object]
    models: Mapping[str, Estimate]

    @property
    def name(self) -> str:
        return self.metric.name

    @property
    def is_share(self) -> bool:
        """Whether it lies between 0 and 100%, and can be drawn there."""
        return self.metric.unit == "share"

    @property
    def rows(self) -> int:
        """Of the steered model, or of another where it has none."""
        ours = self.models.get(STEERED)
        return ours.n if ours and ours.n else max(one.n for one in self.models.values())

    def shown(self, model: str) -> str:
        """One model's figure."""
        one = self.models[model]
        if self.is_share:
            return shown(one)
        return f"{one.value:.3f} {self.metric.unit}".rstrip() if one.n else "–"

    def interval(self, model: str) -> str:
        """Its interval; empty where nothing was counted."""
        one = self.models[model]
        return interval(one) if self.is_share or not one.n else f"{one.low:.3f} to {one.high:.3f}"

    def span(self, model: str) -> str:
        """The same where there is little room, as one word: ``0.0–16.1``."""
        return self.interval(model).replace(" to ", "–\u2060").rstrip("%")

    def fewer(self, model: str) -> str:
        """``of 34``, where a model was asked other rows than the steered one."""
        rows = self.models[model].n
        return "" if rows in (0, self.rows) else f"of {rows:,}"

    def sentence(self) -> str | None:
        """One sentence about the steered model; None if there is none."""
        ours, base, words = self.models.get(STEERED), self.models.get(BASE), self.metric.words
        form = words.if_few if ours and ours.few else words.sentence
        if ours is None or form is None:
            return None
        text = form.format(
            share=shown(ours),
            interval=interval(ours),
            count=ours.count,
            n=ours.n,
            are="is" if ours.n == 1 else "are",
            questions=many(ours.n, "question", "questions"),
            held_out=many(ours.n, "held-out question", "held-out questions"),
            beside=f"; its base: {shown(base)}" if base else "",
        )
        return text[:1].upper() + text[1:]


@dataclass(frozen=True)
class Results:
    """What base and steered model forget and keep, as a verification has it.

    Attributes:
        method: the method that made the steering.
        rule: what counts as a fluent refusal, in words.
        models: measures by model; ``base`` and ``steered`` are always there.
        eval_slices: the same for rows of a slice of their own, such as conversations of two turns or replies that are forced to begin.
    """

    method: str
    rule: str
    models: Mapping[str, Mapping[str, Estimate]]
    eval_slices: Mapping[str, Results] = field(default_factory=dict)

    @classmethod
    def of(cls, unlearning: Mapping[str, Any]) -> Results:
        """Read the ``unlearning`` section of verification.json; raises VerificationError where it is not whole."""
        try:
            unlearning = with_current_names(unlearning, UNLEARNING, "the verification")
            method, rule, slices = (
                unlearning["method"],
                unlearning["rule"],
                dict(unlearning.get("eval_slices") or {}),
            )
            models = _models(unlearning["models"])
            by_slice = {str(name): _models(measures_by_model) for name, measures_by_model in slices.items()}
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise VerificationError(
                f"the verification's unlearning report cannot be read ({error}); verify again"
            ) from None
        said = rule if isinstance(rule, str) else ""
        found = {
            name: cls(str(method), said, measures_by_model) for name, measures_by_model in by_slice.items()
        }
        return cls(str(method), said, models, found)

    @property
    def lines(self) -> list[Line]:
        """Every metric that was counted over any row, in the order in which they are shown."""
        names = dict.fromkeys(name for some in self.models.values() for name in some)
        return [
            line
            for line in map(self.line, sorted(names, key=lambda name: metric_of(name).words.rank))
            if line
        ]

    @property
    def shown(self) -> list[Line]:
        """The lines for a reader: a part is listed only if it differs from its whole."""
        return [line for line in self.lines if not self._is_the_whole(line)]

    def _is_the_whole(self, line: Line) -> bool:
        """Whether a line is a part that equals its whole."""
        part_of = line.metric.words.part_of
        whole = None if part_of is None else self.line(part_of)
        return whole is not None and whole.models == line.models

    @property
    def headlines(self) -> list[Line]:
        """What stands on top of a page, of the steered model."""
        return [
            line
            for line in self.lines
            if line.metric.words.headline and STEERED in line.models and line.models[STEERED].n
        ]

    @property
    def of_slices(self) -> list[tuple[str, list[Line]]]:
        """What matters of each slice, by its name in words."""
        found = [
            (name.replace("_", " "), [line for line in one.lines if line.metric.words.in_slices])
            for name, one in self.eval_slices.items()
        ]
        return [(name, lines) for name, lines in found if lines]

    def line(self, name: str) -> Line | None:
        """One metric; None where no row was counted."""
        found = {model: some[name] for model, some in self.models.items() if name in some}
        line = Line(metric_of(name), found)
        return line if found and line.rows else None

    def summary(self) -> list[str]:
        """The most important measures in a few sentences."""
        return [sentence for line in self.lines if (sentence := line.sentence())]


def _models(models: Mapping[str, Any]) -> dict[str, dict[str, Estimate]]:
    """Measures by model; raises VerificationError where base or steered model is missing, or a share is none."""
    if not {BASE, STEERED} <= set(models):
        raise VerificationError(
            "the verification's unlearning report lacks the base or steered model; verify again"
        )
    return {
        str(model): {
            str(name): measured(name, value)
            for name, value in with_current_names(dict(measures), METRICS, "the verification").items()
        }
        for model, measures in models.items()
    }


def percent(value: float) -> str:
    """``98.3%``, of a share in [0, 1]; never 0.0 or 100.0 for what is not quite so."""
    text = f"{100 * value:.1f}"
    if text == "0.0" and value > 0:
        return "<0.1%"
    return ">99.9%" if text == "100.0" and value < 1 else f"{text}%"


def many(count: int, one: str, more: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{count:,} {one if count == 1 else more}"


def joined(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""
