"""RIL and RCR of a verification: verdicts on replies that are there already; no row is generated for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from exporter import registry
from exporter.evaluation.case import Case, is_ordinary
from exporter.evaluation.judges.base import Judge
from exporter.evaluation.judges.endpoint import EndpointJudge
from exporter.evaluation.judges.rules import LocalRules
from exporter.evaluation.metrics.base import Evaluated
from exporter.evaluation.metrics.reasoning import IMPLICIT, SUPPORTED
from exporter.evaluation.refusals import RefusalRule
from exporter.evaluation.report import BASE
from exporter.pipeline.evaluation import STEERED
from exporter.pipeline.judged_rows import judged
from exporter.reasoning_report import JudgedFigure, JudgedModel, ReasoningReport
from exporter.recipe_bounds import Bounds
from exporter.types import Row


def judge_for(bounds: Bounds) -> Judge:
    """Who judges: rules that compare words, or with ``publish.require.judge`` the model that the environment names.

    Raises:
        InputErrors: it is not named there, or does not answer.
    """
    return EndpointJudge.ready() if bounds.judge else LocalRules()


def judged_reasoning(
    base: Sequence[Case],
    steered: Sequence[Case],
    rows: Sequence[Row],
    rule: RefusalRule,
    judge: Judge,
    folder: Path,
) -> ReasoningReport:
    """What the reasoning in these replies gives away, and what of it is sound.

    Args:
        base: the base's replies; those to rows that the steered model was not asked do not count.
        rows: all test rows: from them follows which words betray a secret.
        folder: where verdicts of a model are kept, so that the same command resumes.
    """
    others = {case.row.id: case for case in base}
    asked = [case for case in steered if is_ordinary(case)]
    cases = {BASE: [others[case.row.id] for case in asked], STEERED: asked}
    seen = {name: [Evaluated(case, others, rule) for case in some] for name, some in cases.items()}
    verdicts = {
        name: judged(
            judge,
            some,
            rows,
            folder / f"{name}.jsonl",
            name,
            is_base=name == BASE,
            aspects=(IMPLICIT, SUPPORTED),
        )
        for name, some in seen.items()
    }
    both = {row for row in verdicts[BASE] if all(SUPPORTED in one.get(row, {}) for one in verdicts.values())}
    models = {name: _figures(some, verdicts[name], both) for name, some in seen.items()}
    return ReasoningReport(
        judge=judge.name,
        by_rules=isinstance(judge, LocalRules),
        base=models[BASE],
        steered=models[STEERED],
    )


def _figures(
    seen: Sequence[Evaluated], verdicts: Mapping[str, Mapping[str, float]], both: set[str]
) -> JudgedModel:
    """One model's figures; whether reasoning is sound counts only in the rows that were judged for both models, so that these compare."""
    known = [replace(one, verdicts=_counted(one.case.row.id, verdicts, both)) for one in seen]
    found = {}
    for name in ("ril", "rcr"):
        metric = registry.metric(name)
        found[name] = JudgedFigure.of(metric.estimate(known), metric.unjudged(known))
    return JudgedModel(ril=found["ril"], rcr=found["rcr"])


def _counted(row: str, verdicts: Mapping[str, Mapping[str, float]], both: set[str]) -> dict[str, float]:
    return {
        aspect: value for aspect, value in verdicts.get(row, {}).items() if aspect != SUPPORTED or row in both
    }
