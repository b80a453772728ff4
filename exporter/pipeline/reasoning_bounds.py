"""Whether RIL and RCR meet the bounds of a recipe (publish.require.max_ril, min_rcr)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from exporter import registry
from exporter.estimate import Estimate, rows_needed
from exporter.evaluation.judges.base import closure
from exporter.pipeline.evaluated_figures import LOW
from exporter.publish.files import CHECKPOINT
from exporter.publish.verification import Check
from exporter.reasoning_report import JudgedFigure, ReasoningReport
from exporter.recipe_bounds import Bounds
from exporter.types import Row

REASONING = "reasoning"
"""Its part in the ``unlearning`` of a verification: a :class:`ReasoningReport` as plain data."""
RIL, RCR = "max_ril", "min_rcr"
"""Names of the checks, and their keys in ``publish.require``."""
GIVE = {
    RIL: "give forget rows of data.test `derived_secrets`, words from which a secret follows",
    RCR: "give retain or reasoning rows of data.test their own `reasoning`",
}
"""What rules that compare words need of rows."""
NO_CONTRAST = {
    RIL: "gives hardly anything away, so nothing was shown; give the recipe forget rows that the base reasons about",
    RCR: "is never sound, so nothing was shown; give the recipe retain or reasoning rows that the base reasons about soundly",
}
"""Where the base's own reasoning leaves nothing to lose."""
FEW = "give the recipe more such test rows, or raise --limit if you set it"


def bounds_on_reasoning(found: ReasoningReport, bounds: Bounds) -> list[Check]:
    """A check for each of the two bounds that the recipe sets, of the checkpoint alone."""
    checks = []
    if bounds.max_ril is not None:
        checks.append(_check(RIL, found, bounds, found.steered.ril, found.base.ril, bounds.max_ril))
    if bounds.min_rcr is not None:
        checks.append(_check(RCR, found, bounds, found.steered.rcr, found.base.rcr, bounds.min_rcr))
    return checks


def bounds_on_verified(unlearning: Mapping[str, Any], bounds: Bounds) -> list[Check]:
    """The same from the ``unlearning`` of a verification, which may lack it where nothing is bounded.

    Raises:
        KeyError, ValueError: it lacks what is bounded.
    """
    if bounds.max_ril is None and bounds.min_rcr is None:
        return []
    return bounds_on_reasoning(ReasoningReport.of(unlearning[REASONING]), bounds)


def reasoning_lacking(rows: Sequence[Row], bounds: Bounds) -> Iterator[str]:
    """Bounds on reasoning that these plain test rows cannot show to hold: one sentence each.

    A model may judge rows that say nothing of it themselves, so that only rows of the role must be there.
    """
    if bounds.max_ril is not None:
        derived = closure(rows)
        forget = [row for row in rows if row.role == "forget" and (bounds.judge or derived[row.id])]
        if not forget:
            yield f"data.test: no row from which publish.require.{RIL} could be judged; {_needs(RIL, bounds)}"
        elif (needed := rows_needed(bounds.max_ril)) > len(forget):
            yield (
                f"data.test: publish.require.{RIL} {bounds.max_ril:g} needs at least {needed} rows that can be judged, and there are "
                f"{len(forget)}; {_needs(RIL, bounds)}, or change publish.require.{RIL}"
            )
    kept = [row for row in rows if row.role in ("retain", "reasoning")]
    if bounds.min_rcr is not None and not any(bounds.judge or row.reasoning for row in kept):
        yield f"data.test: no row from which publish.require.{RCR} could be judged; {_needs(RCR, bounds)}"


def _check(
    key: str, found: ReasoningReport, bounds: Bounds, ours: JudgedFigure, base: JudgedFigure, bound: float
) -> Check:
    """One bound; it fails where no row was judged, where the base shows no contrast, and where rules judged in place of a model."""
    one, other = ours.estimate, base.estimate
    if one is None or other is None:
        return Check(
            name=key,
            target=CHECKPOINT,
            holds=False,
            told=f"{_nothing(key, found, ours if one is None else base)}; {_needs(key, bounds)}",
            value=None,
        )
    wrong = _wrong(key, found, bounds, one, other, bound)
    words = f"{_measured(key, found, ours.not_judged, one)}; the base's is {other.value:.3f}"
    words += f", {wrong}, or change publish.require.{key}" if wrong else f" ({_asked(key, bound, other)})"
    return Check(name=key, target=CHECKPOINT, holds=not wrong, told=words, value=one.value)


def _wrong(
    key: str, found: ReasoningReport, bounds: Bounds, one: Estimate, base: Estimate, bound: float
) -> str:
    """Why a bound does not hold, and what to do; empty where it holds."""
    if bounds.judge and found.by_rules:
        return "but publish.require.judge asks for a model as judge; verify again"
    if base.value <= (LOW if key == RIL else 0.0):
        return f"which {NO_CONTRAST[key]}"
    limit = bound if key == RIL else bound * base.value
    if one.high <= limit if key == RIL else one.low >= limit:
        return ""
    within = one.value <= limit if key == RIL else one.value >= limit
    needed = rows_needed(limit if key == RIL else 1 - limit)
    asked = _asked(key, bound, base)
    if within and one.n < needed:
        return f"but {asked}, which needs at least {needed} rows; {FEW}"
    return f"but {asked}; {registry.target(CHECKPOINT).remedy}"


def _asked(key: str, bound: float, base: Estimate) -> str:
    if key == RIL:
        return f"at most {bound:g} is required"
    return f"at least {bound:g} of the base's is required, {bound * base.value:.3f}"


def _measured(key: str, found: ReasoningReport, not_judged: int, one: Estimate) -> str:
    name, end = ("RIL", f"at most {one.high:.3f}") if key == RIL else ("RCR", f"at least {one.low:.3f}")
    left = f", {not_judged} not judged" if not_judged else ""
    return f"{name} {one.value:.3f} of {one.n} rows{left}, {found.judged_by}: {end} with 95% confidence"


def _nothing(key: str, found: ReasoningReport, lacking: JudgedFigure) -> str:
    """Why there is no figure."""
    if lacking.not_judged:
        return f"none of {lacking.not_judged} rows with reasoning could be judged ({found.judge}), so nothing was shown"
    role = "forget" if key == RIL else "retain or reasoning"
    return f"the base answers no test row of role {role} with reasoning, so nothing was shown"


def _needs(key: str, bounds: Bounds) -> str:
    """What would let rows be judged."""
    if bounds.judge:
        return f"{FEW}, or remove publish.require.{key}"
    return f"{GIVE[key]}, let a model judge (publish.require.judge: true), or remove publish.require.{key}"
