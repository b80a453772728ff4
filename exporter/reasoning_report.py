"""What the reasoning of base and steered model gives away and what of it stays sound, with whose verdicts these are (docs/evaluate.md)."""

from __future__ import annotations

import json

from exporter.artifact import Given
from exporter.estimate import Estimate
from exporter.report import Figure


class JudgedFigure(Given):
    """One figure that needs a judge.

    Attributes:
        figure: None where no row was judged; never a number then.
        not_judged: rows that would count, had they been judged.
    """

    figure: Figure | None = None
    not_judged: int = 0

    @classmethod
    def of(cls, one: Estimate, not_judged: int) -> JudgedFigure:
        """An estimate within [0, 1]; one over no rows is no figure."""
        return cls(figure=Figure.of(one) if one.n else None, not_judged=not_judged)

    @property
    def estimate(self) -> Estimate | None:
        """As it was measured; None where nothing was.

        Raises:
            ValueError: the figure is not within its interval in [0, 1], so nobody measured it.
        """
        if self.figure is None:
            return None
        low, high = (float("nan") if end is None else float(end) for end in self.figure.interval)
        if self.figure.n < 1 or not 0.0 <= low <= self.figure.value <= high <= 1.0:
            raise ValueError(f"{self.figure.data()} is no figure in [0, 1] with its interval")
        return Estimate(float(self.figure.value), self.figure.n, low, high)


class JudgedModel(Given):
    """One model: RIL and RCR of RMLLMU-Bench."""

    ril: JudgedFigure
    rcr: JudgedFigure


class ReasoningReport(Given):
    """The part ``reasoning`` of the unlearning in verification.json.

    Attributes:
        judge: whose verdicts count, by name.
        by_rules: whether it compares words and is no model.
        base, steered: the same rows; RCR is counted over those that were judged for both.
    """

    judge: str
    by_rules: bool
    base: JudgedModel
    steered: JudgedModel

    @classmethod
    def of(cls, content: object) -> ReasoningReport:
        """A report from its plain data; raises ValueError where it is none."""
        return cls.model_validate_json(json.dumps(content))

    @property
    def judged_by(self) -> str:
        """Whose verdicts these are, in words."""
        return f"judged by {self.judge}{', which compare words' if self.by_rules else ''}"
