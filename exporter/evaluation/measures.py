"""Every registered metric of replies, over plain questions and over the rows of each slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from exporter import registry
from exporter.estimate import Estimate
from exporter.evaluation.case import Case
from exporter.evaluation.metrics.base import GENERATED, Answered
from exporter.evaluation.refusals import RefusalRule


def measures(cases: Sequence[Case], base: Mapping[str, Case], rule: RefusalRule) -> dict[str, Estimate]:
    """Every metric over ``cases``, by name.

    Args:
        cases: one model's cases; rows of any role and group.
        base: the unsteered model's case by row id, with the same rows.
        rule: what counts as a fluent refusal.
    """
    seen = [Answered(case, base, rule) for case in cases]
    return {name: metric.estimate(seen) for name, metric in registry.metrics(GENERATED).items()}


def by_slice(
    cases: Sequence[Case], base: Mapping[str, Case], rule: RefusalRule
) -> dict[str, dict[str, Estimate]]:
    """The same metrics for the rows of each slice, by slice in order of name. Rows without one are left out."""
    names = sorted({case.row.eval_slice for case in cases if case.row.eval_slice is not None})
    members = {name: [case for case in cases if case.row.eval_slice == name] for name in names}
    return {name: measures(members[name], base, rule) for name in names}
