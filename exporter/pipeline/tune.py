"""A study of a method's parameters on calibration rows, and its winner as a recipe.

The test rows are no part of it: the recipe that trials are fitted by has none, and the files are read once the winner is written.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter import registry
from exporter.atomic import write_bytes
from exporter.digests import digest_of
from exporter.errors import FitError, InputErrors
from exporter.fitted import Fitted
from exporter.fitting.space import described, sampled
from exporter.pipeline.preflight import load_recipe, require
from exporter.pipeline.run import FITTING, TRAINING, Run, run
from exporter.pipeline.tune_record import (
    TuneRecord,
    draw,
    front_of,
    line_of,
    refuse_other,
    winner_of,
    write_recipe,
)
from exporter.pipeline.tune_study import Study, Tried
from exporter.pipeline.tune_trial import Judge
from exporter.processes import local_rank
from exporter.progress import Ticker
from exporter.provenance import digest_of_code, versions
from exporter.recipe import Recipe
from exporter.recipe_tree import override, read_tree
from exporter.splits import digest_of_rows
from exporter.targets.values import Summary
from exporter.workspace import Workspace

LOG = logging.getLogger(__name__)
ROWS = 96
STUDY = "study.db"
_MOST = 3
"""Parameters that are asked for, per trial wanted, before a study gives up: some cannot be fitted."""


@dataclass(frozen=True)
class Tuned:
    """What a study came to.

    Attributes:
        record: the content of tune.json.
        recipe: where the winner was written.
        folder: where tune.json and its picture lie.
        report: of the winner's run over the test rows; None where none was asked for.
    """

    record: TuneRecord
    recipe: Path
    folder: Path
    report: dict[str, object] | None

    @property
    def run(self) -> Path:
        """Folder of the winner's run."""
        return self.folder / "run"

    def data(self) -> dict[str, object]:
        """As one JSON object."""
        return {"recipe": str(self.recipe), "study": self.record.data(), "report": self.report}

    @property
    def summary(self) -> Summary:
        """The trials that no other beats, the winner among them."""
        record = self.record
        fitted = sum(one.leakage is not None for one in record.trials)
        rows = []
        for one in record.trials:
            if one.number in record.front:
                mark = " (winner)" if one.number == record.winner else ""
                shares = (f"{share:.3f}" for share in (one.leakage, one.kept, one.fluent))
                rows.append((f"{one.number}{mark}", *shares, json.dumps(one.params)))
        return Summary(
            self.data(),
            f"{record.recipe}, {record.method}: those of {fitted} trials that none beats",
            ("trial", "leak", "kept", "fluent", "parameters"),
            rows,
            f"Shares of {record.rows['forget']} calibration rows to forget and {record.rows['keep']} to keep.",
        )


def tune(
    file: Path,
    *,
    changes: Sequence[str] = (),
    trials: int = 60,
    out: Path | None = None,
    folder: Path | None = None,
    rows: int = ROWS,
    report: bool = True,
    progress: bool = True,
) -> Tuned:
    """Search the parameters of a recipe's default method; the same command goes on with a study that was stopped.

    Args:
        file: the recipe; parameters that it sets stay as they are.
        trials: fitted parameters in all, those of earlier calls counted.
        out: the recipe to write; FOLDER/NAME-tuned.yaml by default.
        folder: of the study; runs/NAME-tune by default.
        rows: most calibration rows of either kind that a trial is judged on.
        report: whether the winner is run, which reads the test rows.

    Raises:
        InputErrors: the recipe, its base or its rows cannot be used; ``out`` is another file; this is one of several processes; or another
            works on the study.
        FitError: no parameters could be fitted.
    """
    import optuna  # noqa: F401 - where it is missing, that is said before anything is loaded

    recipe = load_recipe(file, changes)
    if local_rank() is not None:
        raise InputErrors("steerbake tune", ["runs in one process; start it without accelerate or torchrun"])
    folder = folder or Path("runs") / f"{recipe.name}-tune"
    out = out or folder / f"{recipe.name}-tuned.yaml"
    refuse_other(out)
    _refuse_folder(recipe, folder, out)
    blind = without_test_rows(recipe)
    require(blind, folder / "trials")
    work = Run(blind, folder / "trials", progress)
    with Study(folder / STUDY, made_of(work, rows), recipe.seed) as study:
        if study.news:
            LOG.warning("note: %s", study.news)
        judge = Judge(work, rows=rows)
        record = _record(work, study, judge, _searched(study, judge, work, trials))
        record.save(folder / TuneRecord.FILE)
        draw(record, folder)
        write_recipe(out, file.resolve(), _tree(file, changes), record, folder)
        del judge, work  # the base's memory
        found = _tested(Recipe.load(out), folder, progress=progress) if report else None
    return Tuned(record, out, folder, found)


def without_test_rows(recipe: Recipe) -> Recipe:
    """The recipe with its default method alone and nothing to test on."""
    return recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update={"test": []}),
            "methods": recipe.methods.model_copy(update={"compare": []}),
            "report": recipe.report.model_copy(update={"attacks": [], "folds": 0}),
            "publish": None,
        }
    )


def _refuse_folder(recipe: Recipe, folder: Path, out: Path) -> None:
    """Raises InputErrors where a folder holds the study of another recipe, or the run of another winner."""
    objections = [
        Workspace.objection(folder / "trials", recipe.name, recipe.file),
        Workspace.objection(folder / "run", f"{recipe.name}-tuned", out),
    ]
    problems = [one.replace("--out", "--folder") for one in objections if one is not None]
    if problems:
        raise InputErrors(str(folder), problems)


def made_of(work: Run, rows: int) -> dict[str, str]:
    """Digests of what a trial's outcome follows from: where one is another, so is the study."""
    recipe, name = work.recipe, work.recipe.methods.default
    chosen = registry.resolve(registry.METHODS, "method", name)
    places = (*FITTING, "exporter/methods", *(TRAINING if chosen.yields == "edit" else ()))
    asked = [
        recipe.report.max_new_tokens,
        recipe.report.batch_size,
    ]  # the width of a batch moves the last bits of its sums
    method = [name, recipe.methods.params.get(name, {}), recipe.seed, *asked]
    installed = versions()
    return {
        "the recipe": digest_of([*method, recipe.chat.model_dump(), rows]),
        "the base": digest_of([work.model_inputs[key] for key in ("base", "dtype", "device")]),
        "the fit rows": digest_of_rows(work.rows.fit),
        "the calibration rows": digest_of_rows(work.rows.calibrate),
        "the code": digest_of_code(*places),
        "the libraries": digest_of([installed[one] for one in ("torch", "transformers")]),
    }


def _searched(study: Study, judge: Judge, work: Run, wanted: int) -> list[Tried]:
    """Trials of the study until so many were fitted; the first has the recipe's own parameters."""
    given = work.recipe.methods.params.get(judge.name, {})
    most = _MOST * wanted
    if not dict(described(judge.method.Params, given, judge.blocks)):
        LOG.warning(
            "note: there is nothing to search: the recipe sets every parameter of %s, so one trial is made",
            judge.name,
        )
        wanted = most = 1
    done = study.trials
    fitted = [one for one in done if one.values is not None]
    ticker = Ticker("trials", wanted, len(fitted))
    while len(fitted) < wanted and len(done) < most:
        asked = study.ask()
        params = sampled(judge.method.Params, given, judge.blocks, asked) if done else dict(given)
        found = judge(params)
        values = None
        if found.trial is not None:
            values = (found.trial.leakage, found.trial.identical, found.trial.fluent)
            ticker.advance()
        study.tell(
            asked,
            values,
            params=params,
            margin=found.margin,
            reason=found.reason,
            seconds=round(found.seconds, 2),
            cpu_seconds=round(found.cpu_seconds, 2),
        )
        done = study.trials
        fitted = [one for one in done if one.values is not None]
    if not fitted:
        reasons = sorted({str(one.told["reason"]) for one in done})
        raise FitError(f"none of {len(done)} trials could be fitted: {'; '.join(reasons[:3])}")
    if len(fitted) < wanted:
        LOG.warning(
            "note: %d of %d trials: %d parameters were refused (reasons in tune.json); the same command goes on with more --trials",
            len(fitted),
            wanted,
            len(done) - len(fitted),
        )
    return done


def _record(work: Run, study: Study, judge: Judge, done: Sequence[Tried]) -> TuneRecord:
    """The study's outcome; the winner is fitted once more, and all its replies are generated."""
    lines = [line_of(one) for one in done]
    winner = winner_of(lines)
    name = judge.name
    params = judge.method.Params.model_validate(winner.params)
    found: Fitted = judge.method().fit(judge.context_with(params))
    generated = judge.generated(found).line()
    if lost := [
        key for key, value in generated.items() if isinstance(value, float) and not math.isfinite(value)
    ]:
        raise FitError(
            f"the winner, trial {winner.number} ({json.dumps(winner.params)}), was fitted again, and its {', '.join(lost)} are no numbers: its fit does not "
            "come out the same each time; set other parameters in the recipe, or begin another study (--folder)"
        )
    judged = {"leakage": winner.leakage, "identical": winner.kept, "fluent": winner.fluent}
    if other := [
        f"{key} {generated[key]} for {value}" for key, value in judged.items() if generated[key] != value
    ]:
        LOG.warning("note: with all replies of the winner generated, its trial has %s", ", ".join(other))
    given = work.recipe.methods.params.get(name, {})
    return TuneRecord(
        format="steerbake-tune/1",
        recipe=work.recipe.name,
        method=name,
        study=study.name,
        made_of=study.made_of,
        searched=dict(described(judge.method.Params, given, judge.blocks)),
        rows={"forget": len(judge.bench.forget), "keep": len(judge.bench.keep)},
        trials=lines,
        front=front_of(lines),
        winner=winner.number,
        generated={key: value for key, value in generated.items() if isinstance(value, float)},
    )


def _tested(winner: Recipe, folder: Path, *, progress: bool) -> dict[str, object]:
    """The winner's run, which reads the test rows; the base's own replies to the other rows are those of the study."""
    for said in (folder / "trials" / ".work" / "fit" / "own").glob("*.jsonl"):
        place = folder / "run" / ".work" / "fit" / "own" / said.name
        if not place.exists():
            write_bytes(place, said.read_bytes())
    return run(winner, folder / "run", progress=progress)


def _tree(file: Path, changes: Sequence[str]) -> dict[str, object]:
    """The recipe as its file has it, with the changes from outside."""
    tree = read_tree(file)
    if problems := [problem for text in changes for problem in override(tree, text, Recipe)]:
        raise InputErrors(f"--set for {file}", problems)
    return tree
