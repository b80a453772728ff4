"""Any models measured on the test rows of a recipe, with the metrics of the field: what `steerbake evaluate` does."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

from pydantic import JsonValue

from exporter import registry
from exporter.errors import InputErrors
from exporter.evaluation.case import Case, is_ordinary
from exporter.evaluation.evaluation_file import EvaluatedModel, Evaluation
from exporter.evaluation.judges.base import Judge
from exporter.evaluation.judges.rules import LocalRules
from exporter.evaluation.metrics.base import EVALUATED, Evaluated, Metric, Need
from exporter.evaluation.refusals import RefusalRule
from exporter.evaluation.report import BASE
from exporter.evaluation.row_passes import RowPasses
from exporter.pipeline.asked_rows import answered, replies
from exporter.pipeline.evaluated_figures import (
    NO_PASSES,
    NO_RETAIN,
    RETAIN_IS_BASE,
    RETAIN_IS_THIS,
    Seen,
    figures,
    no_contrast,
    slices,
)
from exporter.pipeline.evaluation import sample
from exporter.pipeline.evaluation_files import file_name, write_files
from exporter.pipeline.forced_rows import Nearness, forced, near
from exporter.pipeline.judged_rows import judged
from exporter.pipeline.measured_models import MeasuredModel, open_model
from exporter.pipeline.paraphrased_rows import with_paraphrases
from exporter.pipeline.run import Run
from exporter.provenance import versions
from exporter.recipe import Recipe
from exporter.splits import digest_of_rows
from exporter.types import Row

ANSWERS, BESIDE, JUDGE, RETAIN = (
    "answer log-probabilities",
    "base log-probabilities",
    "judge",
    "retain model",
)


@dataclass(frozen=True)
class EvaluationRequest:
    """What may be asked of an evaluation beside its models.

    Attributes:
        out: folder of the results; ``evaluation`` in the run's folder where it is None.
        run: folder of the recipe's run; runs/NAME where it is None.
        retain_model: folder or name of a model that was trained without the forget set.
        judge: gives the verdicts; by default rules that compare words.
        metrics: names of those to measure; all where empty.
        limit: test rows at most.
        progress: whether bars are shown.
        say: is called with each remark.
    """

    out: Path | None = None
    run: Path | None = None
    retain_model: str | None = None
    judge: Judge = field(default_factory=LocalRules)
    metrics: Sequence[str] = ()
    limit: int | None = None
    progress: bool = False
    say: Callable[[str], None] = lambda _: None

    def judged_by(self, judge: Judge) -> EvaluationRequest:
        """The same with another judge."""
        return replace(self, judge=judge)


def evaluate(
    models: Sequence[str | Path], recipe: Recipe, request: EvaluationRequest = EvaluationRequest()
) -> Evaluation:
    """Measures models beside the recipe's base, and writes ``evaluation.json`` and what lies beside it into the folder of results.

    The same command goes on where an earlier one was killed: replies, passes and verdicts are kept row by row.

    Args:
        models: folders that a target wrote, folders or Hub names of plain models, ``base``.

    Raises:
        InputErrors: a model, a metric or a judge that there is not; a metric that was asked for by name and cannot be measured here.
        VerificationError: a folder is not what its manifest says.
    """
    chosen = _chosen(request)
    work = Run(recipe, request.run or Path("runs") / recipe.name, request.progress)
    return _Evaluator(work, request, chosen).evaluated(models)


class _Evaluator:
    """One model after the other; the base stays in memory where a metric compares with it."""

    def __init__(self, work: Run, request: EvaluationRequest, chosen: Mapping[str, Metric[object]]) -> None:
        self.work, self.request, self.chosen = work, request, chosen
        self.out = request.out or work.space.out / "evaluation"
        chosen_rows = list(work.test) if request.limit is None else sample(work.test, request.limit)
        self.rows: list[Row] = with_paraphrases(chosen_rows)
        if not self.rows:
            raise InputErrors(work.recipe.name, ["has no test rows to measure on; add some to data.test"])
        if twice := [name for name, count in Counter(row.id for row in self.rows).items() if count > 1]:
            raise InputErrors(work.recipe.name, [f"two test rows are called {twice[0]!r}; rename one"])
        self.needs: frozenset[Need] = frozenset(need for one in chosen.values() for need in one.needs)
        self.rule: RefusalRule = work.rule()
        self.base = open_model(BASE, work)
        self.base_cases: dict[str, Case] = {}
        self.base_passes: dict[str, RowPasses] = {}
        self.retained: dict[str, RowPasses] = {}
        self.retain_digest: str | None = None

    def evaluated(self, models: Sequence[str | Path]) -> Evaluation:
        """All of them, the base first; files are written when the last is done."""
        others = [open_model(one, self.work, say=self.request.say) for one in models if str(one) != BASE]
        _name_apart([self.base, *others])
        self._retain_model()
        found: dict[str, EvaluatedModel] = {}
        seen: dict[str, Seen] = {}
        for model in (self.base, *others):
            for variant in model.variants:
                title = model.title(variant)
                seen[title] = self._seen(model, variant)
                found[title] = self._figures(model, variant, seen[title])
            if model is not self.base:
                model.close()
        evaluation = self._file(found)
        write_files(self.out, evaluation, seen, self.work.recipe)
        return evaluation

    def _retain_model(self) -> None:
        """The passes of a model that never saw the forget set; it is not measured itself."""
        if self.request.retain_model is None or ANSWERS not in self.needs:
            return
        model = open_model(self.request.retain_model, self.work, say=self.request.say)
        if model.host is None:
            raise InputErrors(
                model.name, [f"a retain model must give log-probabilities, and {model.kind} gives none"]
            )
        self.retained, self.retain_digest = self._forced(model), model.digest
        model.close()

    def _why_no_retain(self, model: MeasuredModel, passes: Mapping[str, RowPasses]) -> str | None:
        """Why the retain model does not stand beside a model: there is none, or it is the base or that very model, by its files or by every pass."""
        if not self.retained:
            return NO_RETAIN
        if self.retain_digest == model.digest and model is not self.base:
            return RETAIN_IS_THIS
        if self.retain_digest == self.base.digest or _same(self.retained, self.base_passes):
            return RETAIN_IS_BASE
        return RETAIN_IS_THIS if self.retained == passes else None

    def _seen(self, model: MeasuredModel, variant: str) -> Seen:
        """Everything that is to be known of one variant, row by row."""
        title, progress = model.title(variant), self.request.progress
        rows = model.reads(self.rows)
        if model is not self.base:  # nothing is measured that the base was not asked
            rows = [row for row in rows if row.id in self.base_cases]
        records = replies(self._place(title, "replies"))
        cases = answered(model, variant, rows, self.work, records, progress=progress)
        if model is self.base:
            self.base_cases = {case.row.id: case for case in cases}
        passes = self._forced(model) if ANSWERS in self.needs else {}
        if model is self.base:
            self.base_passes = passes
        no_retain = self._why_no_retain(model, passes)
        retained = {} if no_retain else self.retained
        beside: dict[str, Nearness] = {}
        if BESIDE in self.needs:
            place = self._place(title, "beside")
            beside = near(
                self.base, model, variant, cases, self.base_cases, self.work, place, progress=progress
            )
        seen = [self._of_row(case, passes, retained, beside) for case in cases]
        if JUDGE in self.needs:
            place = self._place(title, "verdicts")
            asked = [one for one in seen if is_ordinary(one.case)]
            verdicts = judged(
                self.request.judge,
                asked,
                self.rows,
                place,
                title,
                is_base=model is self.base,
                progress=progress,
            )
            seen = [replace(one, verdicts=verdicts.get(one.case.row.id, {})) for one in seen]
        return Seen(seen, model.host is not None, len(self.rows) - len(rows), no_retain)

    def _of_row(
        self,
        case: Case,
        passes: Mapping[str, RowPasses],
        retained: Mapping[str, RowPasses],
        beside: Mapping[str, Nearness],
    ) -> Evaluated:
        row, close = case.row.id, beside.get(case.row.id, Nearness(None, None))
        return Evaluated(
            case,
            self.base_cases,
            self.rule,
            passes=passes.get(row),
            retained=retained.get(row),
            divergence=close.divergence,
            surprise=close.surprise,
        )

    def _forced(self, model: MeasuredModel) -> dict[str, RowPasses]:
        place = self._place(model.name, "passes")
        return forced(model, self.rows, self.work, place, progress=self.request.progress)

    def _figures(self, model: MeasuredModel, variant: str, seen: Seen) -> EvaluatedModel:
        lacks = {} if seen.whole else {ANSWERS: NO_PASSES}
        if seen.no_retain:
            lacks[RETAIN] = seen.no_retain
        judge = self.request.judge.name
        return EvaluatedModel(
            kind=model.kind,
            variant=variant,
            sha256=model.digest,
            rows=len(seen.rows),
            left_out=seen.left_out,
            silent=seen.silent,
            details={} if model is self.base else _plain(model.opened.details),
            metrics=figures(self.chosen, seen.plain, lacks, judge),
            eval_slices=slices(self.chosen, seen.rows, lacks, judge),
        )

    def _file(self, models: Mapping[str, EvaluatedModel]) -> Evaluation:
        roles = [row.role for row in self.rows]
        recipe = self.work.recipe
        return Evaluation(
            created=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            recipe=recipe.name,
            stand_in=recipe.stand_in,
            rows={role: roles.count(role) for role in dict.fromkeys(roles)},
            rows_sha256=digest_of_rows(self.rows),
            max_new_tokens=recipe.report.max_new_tokens,
            dtype=recipe.base.dtype,
            judge=self.request.judge.name,
            retain_model=self.request.retain_model if self.retained else None,
            rule=_plain(self.rule.described()),
            versions=versions(),
            no_contrast=no_contrast(self.chosen, models[BASE].metrics),
            models=dict(models),
        )

    def _place(self, title: str, what: str) -> Path:
        return self.out / "records" / f"{file_name(title)}.{what}.jsonl"


def _same(one: Mapping[str, RowPasses], other: Mapping[str, RowPasses]) -> bool:
    """Whether two models read every raw text alike, so that they have the same weights, steered or not; without any, every answer."""
    raw = {row: passes.raw for row, passes in one.items() if passes.raw}
    if not raw:
        return one == other
    return all(row in other and other[row].raw == found for row, found in raw.items())


def _plain(told: Mapping[str, object]) -> dict[str, JsonValue]:
    """The same as JSON has it, without tuples."""
    found: dict[str, JsonValue] = json.loads(json.dumps(dict(told), default=str))
    return found


def _name_apart(models: Sequence[MeasuredModel]) -> None:
    """Gives models of one name different ones."""
    used: set[str] = set()
    for model in models:
        while file_name(model.name) in used:
            model.name += "-2"
        used.add(file_name(model.name))


def _chosen(request: EvaluationRequest) -> dict[str, Metric[object]]:
    """The metrics to measure, in the registry's order.

    Raises:
        InputErrors: one that was named is none of an evaluation's, or needs what was not given.
    """
    every = registry.metrics(EVALUATED)
    wrong = [
        f"unknown metric {name!r}; valid metrics: {', '.join(every)}"
        for name in request.metrics
        if name not in every
    ]
    wrong += [
        f"{name} needs a model that was trained without the forget set: give it with --retain-model"
        for name in request.metrics
        if name in every and RETAIN in every[name].needs and request.retain_model is None
    ]
    if wrong:
        raise InputErrors("--metric", wrong)
    return {name: one for name, one in every.items() if not request.metrics or name in request.metrics}
