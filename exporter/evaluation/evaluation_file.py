"""evaluation.json: what `steerbake evaluate` measured, of which models, over which rows."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import JsonValue

from exporter.artifact import Artifact, Strict
from exporter.estimate import Estimate


class EvaluatedFigure(Strict):
    """One metric of one model.

    Attributes:
        value: None where nothing was measured, never a number then.
        n: rows that were counted.
        interval: ends of the 95% interval; null is no bound. None where the figure has none.
        not_judged: rows that would count, had the judge judged them.
        why_not: why there is no value.
    """

    value: float | None
    n: int
    interval: list[float | None] | None = None
    not_judged: int = 0
    why_not: str | None = None

    @classmethod
    def of(cls, one: Estimate, within: tuple[float, float], not_judged: int, why_not: str) -> EvaluatedFigure:
        """An estimate within these ends; ``why_not`` is kept only where it counted no rows."""
        if not one.n or not math.isfinite(one.value):
            return cls(value=None, n=0, not_judged=not_judged, why_not=why_not)
        ends = [end if math.isfinite(end) else None for end in (one.low, one.high)]
        known = (one.low, one.high) != within
        return cls(value=float(one.value), n=one.n, interval=ends if known else None, not_judged=not_judged)

    @property
    def estimate(self) -> Estimate:
        """As it was measured; raises ValueError where nothing was."""
        if self.value is None:
            raise ValueError(self.why_not)
        low, high = self.interval or (None, None)
        return Estimate(
            self.value, self.n, -math.inf if low is None else low, math.inf if high is None else high
        )


class EvaluatedModel(Strict):
    """One variant of one model.

    Attributes:
        kind: the target that wrote it; ``base`` or ``model`` for one without steering.
        sha256: over the files that decide what it says.
        rows: how many it was asked; ``left_out`` of the recipe's are with images, which it does not read.
        silent: to how many of these it says nothing. To all of them: a low figure of leakage is no forgetting then.
        details: what its target tells of it.
        metrics: by name.
        eval_slices: those that were measured, over the rows of each slice.
    """

    kind: str
    variant: str
    sha256: str
    rows: int
    left_out: int
    silent: int
    details: dict[str, JsonValue]
    metrics: dict[str, EvaluatedFigure]
    eval_slices: dict[str, dict[str, EvaluatedFigure]]


class Evaluation(Artifact):
    """The content of evaluation.json; see docs/evaluate.md.

    Attributes:
        recipe: its name.
        rows: how many there are, by role.
        rows_sha256: over all of them.
        judge: whose verdicts count.
        retain_model: what was trained without the forget set, by name; None where none was given.
        rule: what counts as a fluent refusal.
        no_contrast: metrics of which low is good and the base's own is low: a low figure of another model says nothing then.
        models: by name; ``base`` first.
    """

    FILE = "evaluation.json"
    REMEDY = "evaluate again"
    INDENT: ClassVar[int] = 2

    format: Literal["steerbake-evaluation/1"] = "steerbake-evaluation/1"
    created: str
    recipe: str
    stand_in: str | None
    rows: dict[str, int]
    rows_sha256: str
    max_new_tokens: int
    dtype: str
    judge: str
    retain_model: str | None
    rule: dict[str, JsonValue]
    versions: dict[str, str]
    no_contrast: list[str]
    models: dict[str, EvaluatedModel]
