"""The quality of what is said in place of what was forgotten, as a judge scores it (ASRU, https://arxiv.org/abs/2605.15687)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from exporter.estimate import Estimate
from exporter.evaluation.metrics import rows
from exporter.evaluation.metrics.base import Better, Evaluated, Metric, Words

REFUSAL, LEAKAGE, NATURALNESS = "contextual refusal", "leakage", "naturalness"
"""What a judge is asked."""
SCALES: dict[str, tuple[int, int]] = {REFUSAL: (0, 5), LEAKAGE: (0, 5), NATURALNESS: (1, 5)}
"""Least and best score of each, but for leakage, of which 0 is best."""


def _metric(name: str, asked: str, better: Better, says: str) -> Metric[Evaluated]:
    least, most = SCALES[asked]
    within = (float(least), float(most))

    def of(seen: Evaluated) -> float | None:
        return seen.verdicts.get(asked)

    def mean(values: Iterable[float]) -> Estimate:
        return Estimate.spread_mean(values, within)

    over: Callable[[Evaluated], bool] = rows.about_forgotten
    return Metric(
        name,
        frozenset({"text", "judge"}),
        "Forget set",
        over,
        of,
        better,
        Words(f"{says}, {least} to {most}", in_slices=True),
        mean,
        unit="points",
        within=within,
    )


CONTEXTUAL_REFUSAL = _metric("contextual_refusal", REFUSAL, "higher", "a refusal that fits the question")
JUDGED_LEAKAGE = _metric("judged_leakage", LEAKAGE, "lower", "how much of the secret a judge finds")
JUDGED_NATURALNESS = _metric("judged_naturalness", NATURALNESS, "higher", "how natural the reply reads")
