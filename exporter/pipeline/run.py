"""From a recipe to a checkpoint and its report.

rows -> fit per method -> compile -> generate with what was compiled -> report. Every stage is done again only where what it
is made from has changed (:class:`exporter.ledger.Ledger`), so the same command resumes.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from exporter import registry
from exporter.atomic import whole_folder, write_json, write_text
from exporter.data.chat import Chat
from exporter.digests import FileDigests, digest_of, digest_of_file
from exporter.evaluation.case import Case
from exporter.evaluation.cases import dumped, loaded
from exporter.evaluation.conversations import generate_responses
from exporter.evaluation.extraction import summary
from exporter.evaluation.pictures import Scores, draw
from exporter.evaluation.refusals import RefusalRule
from exporter.evaluation.report import BASE, ReportWriter
from exporter.fitted import Fitted, read_fitted
from exporter.fitting.context import FitContext
from exporter.fitting.prompt_scores import prompt_scores
from exporter.host import ModelHost
from exporter.pipeline.answered_by import digests_of, note_files
from exporter.pipeline.attacked_rows import FITTED_WITH, attacked_rows
from exporter.pipeline.bases import prepared
from exporter.pipeline.compiled import compiled
from exporter.pipeline.cross_validation import cross_validation
from exporter.pipeline.extractions import extraction
from exporter.pipeline.method_fit import fitted
from exporter.pipeline.preflight import require
from exporter.pipeline.refusal_rule import refusal_rule
from exporter.pipeline.row_sources import read_splits
from exporter.processes import local_rank
from exporter.provenance import HOST, digest_of_base, digest_of_code, fetched, versions
from exporter.reader import open_reader
from exporter.recipe import Recipe
from exporter.report import CrossValidated, Report
from exporter.splits import Splits, digest_of_rows
from exporter.targets.base_weights import BaseWeights
from exporter.targets.checkpoint import check_names, config_of, prove_family
from exporter.targets.edited_base import edited_base
from exporter.targets.proof import Proof
from exporter.threads import set_threads
from exporter.weight_edit import WeightEdit
from exporter.workspace import Workspace
from steer_modules.program import SteeringProgram

if TYPE_CHECKING:
    from exporter.reader import Processor

ROWS_AND_GATES = ("exporter/fitting", *FITTED_WITH, "exporter/wording")
FITTING = (*ROWS_AND_GATES, "exporter/data", *HOST, "steer_modules")
"""Code that decides what a fit finds, beside the method's own."""
TRAINING = ("exporter/training", "exporter/targets/edited_base.py", "exporter/weight_edit.py")
"""The same of a method that trains."""
DEMO_RECIPE = Path(__file__).resolve().parents[2] / "export_configs" / "llava" / "testbed.yaml"


def run(recipe: Recipe, out: Path, *, progress: bool = True) -> dict[str, object]:
    """Everything a recipe asks for, into ``out``; returns the content of report.json.

    Raises:
        InputErrors: all problems that are found before a model is loaded.
    """
    require(recipe, out)
    work = Run(recipe, out, progress)
    work.compiled()
    work.forget_base()
    return work.reported().data()


def fit(recipe: Recipe, out: Path, *, progress: bool = True) -> dict[str, Path]:
    """Fit every method of a recipe; returns the folder of each steering program."""
    require(recipe, out)
    work = Run(recipe, out, progress)
    return {method: work.fit(method) for method in recipe.methods.names}


def demo(out: Path, *, progress: bool = True) -> dict[str, object]:
    """The recipe of the bundled testbed."""
    return run(Recipe.load(DEMO_RECIPE), out, progress=progress)


class Steered(NamedTuple):
    """A checkpoint in memory, and the digests of what it was loaded from; None where nobody will ask for those."""

    method: str
    host: ModelHost
    files: FileDigests | None


class Run:
    """One recipe at work in one folder."""

    def __init__(self, recipe: Recipe, out: Path, progress: bool = True) -> None:
        self.recipe, self.progress = recipe, progress
        self.space = Workspace.claim(out, recipe.name, recipe.file)
        self.source = fetched(recipe)
        self.fingerprint: str | None = None  # of the files that the host was loaded from
        self.staged: FileDigests | None = (
            None  # the release, once it lies there: its checkpoint is then the one that is asked
        )
        self._steered: Steered | None = None
        self.test = tuple(self.space.with_images(self.rows.test))
        if names := recipe.report.attacks:
            self.test += tuple(attacked_rows(self.test, names, self._reading_chat()))

    @cached_property
    def rows(self) -> Splits:
        """The rows of all three parts, checked against each other."""
        return read_splits(self.recipe, self.space.work / "images")

    @cached_property
    def base(self) -> Path:
        """The base that is fitted and compiled: the recipe's, converted or with its adapters merged where need be."""
        return prepared(self.recipe, self.source, self.space)

    @cached_property
    def host(self) -> ModelHost:
        """The unsteered base."""
        weights = BaseWeights.read(self.base)
        check_names(weights)
        self.fingerprint = weights.fingerprint()
        return self.load(self.base, trust_remote_code=self.recipe.base.trust_remote_code)

    @cached_property
    def proof(self) -> Proof:
        """That the base can be steered, tried on a tiny twin; raises CompileError where it cannot, before anything is fitted."""
        return prove_family(config_of(self.base))

    def compiled(self) -> None:
        """Everything that is asked of the base, and every method's checkpoint; the base stays in memory where it was loaded."""
        for method in self.recipe.methods.names:
            self.fit(method)
        self.generate(BASE)
        extraction(self, BASE)
        for method in self.recipe.methods.names:
            self.scores(method)
        self.cross_validated()
        for method in self.recipe.methods.names:
            self.compile(method)

    def reported(self) -> Report:
        """Everything that is asked of the checkpoints, one in memory at a time, and the report."""
        default = self.recipe.methods.default
        others = [method for method in self.recipe.methods.names if method != default]
        for method in (*others, default):  # the default's last: it may be asked more
            self.generate(method)
            extraction(self, method)
        return self.report({method: self.scores(method) for method in self.recipe.methods.names})

    def forget_base(self) -> None:
        """Let go of the base's memory; it is loaded anew when asked for."""
        self.__dict__.pop("host", None)
        gc.collect()

    def steered(self, method: str) -> Steered:
        """One method's checkpoint with the type and on the device that the recipe asks for; it stays in memory until another is asked for.

        The default method's is the release's, once that is staged; its files are read before it is loaded.
        """
        if self._steered is None or self._steered.method != method:
            self.forget_steered()
            folder = self.space.checkpoint(method, self.recipe.methods.default)
            found = None
            if method == self.recipe.methods.default:
                found = self.staged or digests_of(folder)
                folder = found.folder
            self._steered = Steered(method, self.load(folder, trust_remote_code=True), found)
        return self._steered

    def staged_in_float32(self) -> ModelHost | None:
        """The release's checkpoint in float32 on the CPU, where that is what lies in memory."""
        one = self._steered
        if one is None or self.staged is None or one.files is not self.staged:
            return None
        return one.host if one.host.dtype == torch.float32 and one.host.device.type == "cpu" else None

    def forget_steered(self) -> None:
        """Let go of a checkpoint's memory."""
        self._steered = None
        gc.collect()

    def fit(self, method: str) -> Path:
        """Fit one method; returns the folder of what it has found."""
        folder = self.space.fitted(method)
        if self.recipe.yields(method) == "program":
            self.proof  # noqa: B018 - raises where the base cannot be steered
        params = self.recipe.methods.params.get(method, {})
        inputs = self.fit_inputs(method)
        self.space.ledger.run(f"fit-{method}", inputs, folder, lambda: self._fit(method, params, folder))
        return folder

    def fit_inputs(self, method: str) -> dict[str, object]:
        """What decides what a fit finds, for the ledger."""
        chosen = registry.resolve(registry.METHODS, "method", method)
        return {
            **self.model_inputs,
            "rows": [digest_of_rows(self.rows.fit), digest_of_rows(self.rows.calibrate)],
            "params": self.recipe.methods.params.get(method, {}),
            "seed": self.recipe.seed,
            "max_new_tokens": self.recipe.report.max_new_tokens,
            "code": digest_of_code(*FITTING, *(TRAINING if chosen.yields == "edit" else ())),
            "method": digest_of_file(Path(str(sys.modules[chosen.__module__].__file__))),
        }

    def compile(self, method: str) -> Path:
        """Compile what one method has found; returns the checkpoint, steered or merged."""
        folder = self.space.checkpoint(method, self.recipe.methods.default)
        found = self.found(method)
        inputs = {
            "base": self.model_inputs["base"],
            "trust_remote_code": self.recipe.base.trust_remote_code,
            "steering": found.sha256,
            "code": _shipped_code(),
        }
        stage = "compile-default" if method == self.recipe.methods.default else f"compile-{method}"
        trust = self.recipe.base.trust_remote_code
        self.space.ledger.run(
            stage,
            inputs,
            folder,
            lambda: compiled(self.base, found, folder, trust_remote_code=trust),
        )
        return folder

    @property
    def trusted(self) -> Path | None:
        """The base, where the recipe trusts its code."""
        return self.source if self.recipe.base.trust_remote_code else None

    def found(self, method: str) -> Fitted:
        """What a method has found, read from its folder."""
        return read_fitted(self.space.fitted(method))

    def generate(self, model: str) -> list[Case]:
        """Generations of the base, or of one method's compiled checkpoint, for the test rows."""
        path = self.space.generations(model)
        inputs = {
            **self.model_inputs,
            "rows": digest_of_rows(self.test),
            "report": self.recipe.report.model_dump(include={"max_new_tokens", "batch_size"}),
            "steering": None if model == BASE else self.found(model).sha256,
            "code": digest_of_code("exporter/data", *HOST, "exporter/evaluation/conversations.py"),
            "shipped": None if model == BASE else _shipped_code(),
        }
        self.space.ledger.run(f"generate-{model}", inputs, path, lambda: self._generate(model, path))
        return loaded(path.read_text(encoding="utf-8"), self.test)

    def scores(self, method: str) -> Scores:
        """Gate scores of calibration and test rows, as the pictures show them; none of a method without gates."""
        program = self.found(method)
        if isinstance(program, WeightEdit):
            return {}
        path = self.space.scores(method)
        inputs = {
            **self.model_inputs,
            "rows": [digest_of_rows(self.rows.calibrate), digest_of_rows(self.test)],
            "steering": program.sha256,
            "code": digest_of_code(*ROWS_AND_GATES),
        }
        self.space.ledger.run(f"scores-{method}", inputs, path, lambda: self._score(method, program, path))
        found: Scores = _read_json(path)
        return found

    def cross_validated(self) -> CrossValidated | None:
        """What the default method forgets of fit and calibration rows that it was not shown; None where the recipe has no folds."""
        folds = self.recipe.report.folds
        if not folds:
            return None
        path = self.space.work / "cross_validation.json"
        method = self.recipe.methods.default
        inputs = {
            **self.model_inputs,
            "rows": [digest_of_rows(self.rows.fit), digest_of_rows(self.rows.calibrate)],
            "params": self.recipe.methods.params.get(method, {}),
            "seed": self.recipe.seed,
            "report": [folds, self.recipe.report.max_new_tokens],
            "code": digest_of_code(*FITTING, "exporter/methods"),
        }
        self.space.ledger.run(
            "cross-validation",
            inputs,
            path,
            lambda: write_json(path, cross_validation(self, folds), finite=False),
        )
        return CrossValidated.model_validate_json(path.read_bytes())

    def report(self, scores: Mapping[str, Scores]) -> Report:
        """Write report.json, report.md, generations.jsonl and the plots."""
        recipe, methods = self.recipe, self.recipe.methods.names
        found = {method: self.found(method) for method in methods}
        sections = {
            name: one.signed_section() for name, one in found.items() if isinstance(one, SteeringProgram)
        }
        edits = {name: one.manifest().shown for name, one in found.items() if isinstance(one, WeightEdit)}
        records = {method: _read_json(self.space.records(method)) for method in methods}
        return ReportWriter(
            default=recipe.methods.default,
            max_new_tokens=recipe.report.max_new_tokens,
            rule=self.rule(),
            cases={name: self.generate(name) for name in (BASE, *methods)},
            programs=sections,
            weight_edits=edits,
            recipe=recipe.model_dump(mode="json", exclude_defaults=True),
            versions=versions(),
            proof=self.proof.record() if sections else {},
            stand_in=recipe.stand_in,
            eval_slices=recipe.report.eval_slices,
            extraction=summary({name: extraction(self, name) for name in (BASE, *methods)}, BASE),
            plots=draw(self.space.out, sections, scores, records),
            cross_validated=self.cross_validated(),
        ).write(self.space.out)

    def _fit(self, method: str, params: Mapping[str, object], folder: Path) -> None:
        context = self._context(method)
        assert self.fingerprint is not None
        found = fitted(context, method, params, self.fingerprint, lambda: edited_base(self.base))
        write_json(self.space.records(method), context.records, finite=False)
        with whole_folder(folder) as partial:
            found.save(partial)

    def _score(self, method: str, program: SteeringProgram, path: Path) -> None:
        context = self._context(method)
        parts = {"calibration": self.rows.calibrate, "test": self.test}
        fitted = [name for name in self.recipe.methods.names if self.space.fitted(name).is_dir()]
        others = [one for one in map(self.found, fitted) if isinstance(one, SteeringProgram)]
        layers = [gate.layer for one in others for gate in one.gates]
        found = {
            part: prompt_scores(context, program, rows, f"gate scores, {part}", layers)
            for part, rows in parts.items()
        }
        write_text(path, json.dumps(found))

    def rule(self) -> RefusalRule:
        """What counts as a fluent refusal by the recipe."""
        refusals = self.recipe.refusals
        rows = self.rows.fit if refusals.from_rows else ()
        return refusal_rule(self._reading_chat(), rows, refusals.accepted, refusals.patterns)

    def context(self) -> FitContext:
        """The input of a fit of the default method."""
        return self._context(self.recipe.methods.default)

    def _context(self, method: str) -> FitContext:
        return FitContext(
            host=self.host,
            chat=self.chat(self.host.processor),
            fit=self.rows.fit,
            calibrate=self.rows.calibrate,
            params=registry.resolve(registry.METHODS, "method", method).Params(),
            work=self.space.work / "fit",
            seed=self.recipe.seed,
            batch_size=self.recipe.report.batch_size,
            max_new_tokens=self.recipe.report.max_new_tokens,
            progress=self.progress,
        )

    def _generate(self, model: str, path: Path) -> None:
        steered = None if model == BASE else self.steered(model)
        host = self.host if steered is None else steered.host
        chat, out = self.chat(host.processor), self.space.out
        lengths = self.recipe.report.model_dump(include={"max_new_tokens", "batch_size"})
        cases = generate_responses(host, self.test, chat, name=model, folder=out, **lengths)
        write_text(path, dumped(cases))
        if steered is not None and steered.files is not None:
            note_files(path, steered.files)

    @property
    def dtype(self) -> torch.dtype:
        """The type that the recipe asks for."""
        found: torch.dtype = getattr(torch, self.recipe.base.dtype)
        return found

    @property
    def device(self) -> str:
        """The device that the recipe asks for."""
        device = self.recipe.base.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda" and (place := local_rank()) is not None:
            device = f"cuda:{place}"
        return device

    def load(self, folder: Path, *, trust_remote_code: bool) -> ModelHost:
        """A model with the type and on the device that the recipe asks for."""
        host = ModelHost.load(
            folder,
            dtype=self.dtype,
            device=self.device,
            trust_remote_code=trust_remote_code,
            trusted=self.trusted,
        )
        set_threads(host.model)
        return host

    def chat(self, processor: Processor) -> Chat:
        """Prompts as the recipe wants them, in the words of one model."""
        settings = self.recipe.chat
        return Chat(processor, system=settings.system, reasoning_template=settings.reasoning_template)

    def _reading_chat(self) -> Chat:
        """The same without the base in memory."""
        return self.chat(open_reader(self.base, trust_remote_code=self.recipe.base.trust_remote_code))

    @cached_property
    def model_inputs(self) -> dict[str, object]:
        """What the base is and how it is run, for the record of what a stage was made from."""
        base = self.recipe.base
        return {
            "base": digest_of_base(self.base),
            "dtype": base.dtype,
            "device": base.device,
            "chat": self.recipe.chat.model_dump(),
        }


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _shipped_code() -> str:
    places = ("exporter/foreign_code.py", "exporter/model_folder.py", "exporter/targets", "steer_modules")
    return digest_of({"code": digest_of_code(*places)})
