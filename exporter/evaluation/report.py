"""The report of a run: report.json for machines, report.md for readers, generations.jsonl to check them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import JsonValue

from exporter import registry
from exporter.atomic import write_text
from exporter.evaluation.case import Case, is_ordinary
from exporter.evaluation.cases import public_line
from exporter.evaluation.measures import by_slice, measures
from exporter.evaluation.metrics.base import GENERATED, ONE_PASS
from exporter.evaluation.refusals import RefusalRule
from exporter.report import CrossValidated, Measures, PassFigure, Proven, Report, Rule

BASE = "base"
EXAMPLES_PER_ROLE = 2


@dataclass(frozen=True)
class ReportWriter:
    """Everything a report is written from.

    Attributes:
        default: the method whose checkpoint is the result.
        cases: every model's cases by name; ``base`` first, all over the same rows.
        programs: each method's steering section, as in steering.json.
        weight_edits: the manifests of methods that change weights.
        recipe: the recipe as plain data.
        versions: what it ran with, by name.
        proof: which laws a tiny twin of the base kept, and under which Transformers.
        eval_slices: what the rows of each slice are, in words.
        extraction: what one pass over reference replies gives away, by model.
        plots: pictures by caption, paths relative to the report.
        cross_validated: what rows that were held out in turn show; None where none were.
    """

    default: str
    max_new_tokens: int
    rule: RefusalRule
    cases: Mapping[str, Sequence[Case]]
    programs: Mapping[str, Mapping[str, Any]]
    recipe: Mapping[str, JsonValue]
    versions: Mapping[str, str]
    weight_edits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    proof: Mapping[str, object] = field(default_factory=dict)
    stand_in: str | None = None
    eval_slices: Mapping[str, str] = field(default_factory=dict)
    extraction: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    plots: Mapping[str, str] = field(default_factory=dict)
    cross_validated: CrossValidated | None = None

    def report(self) -> Report:
        """The content of report.json."""
        models = self.models()
        return Report(
            default=self.default,
            max_new_tokens=self.max_new_tokens,
            stand_in=self.stand_in,
            models=models,
            too_few_rows=few_rows(models[self.default]),
            extraction={
                model: {name: PassFigure.model_validate(one) for name, one in figures.items()}
                for model, figures in self.extraction.items()
            },
            cross_validated=self.cross_validated,
            rule=Rule.model_validate(self.rule.described()),
            gates={name: section["gates"] for name, section in self.programs.items()},
            edits={name: section["edits"] for name, section in self.programs.items()},
            steering_sha256={name: section["sha256"] for name, section in self.programs.items()},
            **(
                {"weight_edits": {k: dict(v) for k, v in self.weight_edits.items()}}
                if self.weight_edits
                else {}
            ),
            versions=dict(self.versions),
            proof=Proven.model_validate(self.proof),
            recipe=dict(self.recipe),
        )

    def models(self) -> dict[str, Measures]:
        """Measures by model, over plain questions; under ``eval_slices`` those of each slice's rows."""
        return model_measures(self.cases, self.rule)

    def write(self, out: Path) -> Report:
        """Write the three files into ``out``; returns the content of report.json."""
        report = self.report()
        write_text(out / "generations.jsonl", self.generations())
        write_text(out / "report.md", self.markdown(report))
        report.save(out / Report.FILE)
        return report

    def generations(self) -> str:
        """JSON lines: every reply of every model, the turns it answered itself included."""
        replies = (reply for cases in self.cases.values() for case in cases for reply in case.replies)
        return "".join(json.dumps(public_line(reply)) + "\n" for reply in replies)

    def markdown(self, report: Report) -> str:
        """The readable report, from the content of report.json."""
        page = Environment(
            loader=PackageLoader("exporter.evaluation", "templates"),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,  # noqa: S701 - this writes Markdown
        ).get_template("report.md.j2")
        return page.render(
            data=report.data(),
            measures=list(registry.metrics(GENERATED)),
            one_pass=registry.metrics(ONE_PASS),
            held_out=None if self.cross_validated is None else self.cross_validated.leakage_either,
            shown=shown,
            eval_slices=self.eval_slices,
            plots=self.plots,
            examples=self.examples(),
            recipe=yaml.safe_dump(dict(self.recipe), sort_keys=False, allow_unicode=True, width=110),
        )

    def examples(self) -> list[dict[str, str]]:
        """What the base and the default method say to the first rows of each role and slice."""
        ours = {case.row.id: case for case in self.cases[self.default]}
        seen: dict[str, int] = {}
        chosen = []
        for case in self.cases[BASE]:
            kind = case.row.eval_slice or case.row.role
            seen[kind] = seen.get(kind, 0) + 1
            if seen[kind] <= EXAMPLES_PER_ROLE:
                for before, after in zip(case.replies, ours[case.row.id].replies, strict=True):
                    prompt = before.generation.prompt if before is case.replies[0] else "(after that)"
                    texts = {"base": before.generation.text, "ours": after.generation.text}
                    chosen.append({"kind": kind, "id": before.generation.id, "prompt": prompt, **texts})
        return [{name: _cell(text) for name, text in example.items()} for example in chosen]


def model_measures(models: Mapping[str, Sequence[Case]], rule: RefusalRule) -> dict[str, Measures]:
    """Measures by model, over plain questions; under ``eval_slices`` those of each slice's rows.

    Args:
        models: every model's cases over the same rows; ``base`` among them.
    """
    base = {case.row.id: case for case in models[BASE]}
    found = {}
    for name, cases in models.items():
        plain = [case for case in cases if is_ordinary(case)]
        found[name] = Measures.of(measures(plain, base, rule), by_slice(cases, base, rule))
    return found


def shown(name: str, figure: Mapping[str, object]) -> str:
    """``0.991 [0.979, 0.996]``: a fraction with its 95% interval; a dash where nothing was counted, the count where too little was."""
    metric = registry.metric(name)
    one = metric.read(figure)
    if one.n == 0:
        return "-"
    if metric.is_few(one):
        return f"too few: {one.count} of {one.n}"
    return f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"


def few_rows(measures: Measures) -> list[str]:
    """A sentence for every measure of a model, of a slice too, with too few rows for a conclusion."""
    found = []
    named = [(name, name, figure) for name, figure in measures.metrics.items()]
    for eval_slice, figures in measures.eval_slices.items():
        named += [(f"{eval_slice}: {name}", name, one) for name, one in figures.items()]
    for title, name, figure in named:
        metric = registry.metric(name)
        one = metric.read(figure.data())
        if metric.is_few(one):
            found.append(
                f"{title}: {one.count} of {one.n} rows are too few to tell "
                f"(95% interval {one.low:.3f} to {one.high:.3f})"
            )
    return found


def _cell(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
