"""Checks of a recipe, its base, rows, targets and disk space before any model is loaded; all problems are reported at once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from transformers import AutoConfig

from exporter import registry
from exporter.adapters import why_not_mergeable
from exporter.data.chat import Chat
from exporter.errors import CompileError, InputErrors, SteerbakeError, shortened
from exporter.evaluation.judges.endpoint import EndpointJudge
from exporter.foreign_code import refuse_code
from exporter.methods.base import KINDS, Yields
from exporter.pipeline.base_checks import BaseFacts, base_facts, told_of
from exporter.pipeline.bounds import rows_lacking
from exporter.pipeline.disk import Disk, amount, disk
from exporter.pipeline.edit_checks import edit_problems
from exporter.pipeline.method_checks import parameter_problems, searches_blindly, too_few_shots
from exporter.pipeline.row_checks import Room, RowLengths, counts, image_ids, missing_roles, remarks
from exporter.pipeline.row_sources import read_parts, split
from exporter.provenance import fetched_adapters, located
from exporter.reader import open_reader
from exporter.recipe import Recipe
from exporter.recipe_draft import draft
from exporter.splits import Splits
from exporter.targets.base import AnyTarget, TargetOptions
from exporter.targets.checkpoint import config_of, prove_family
from exporter.targets.families import why_no_target
from exporter.vocabulary import check_pad_token
from exporter.workspace import Workspace


@dataclass(frozen=True)
class Preflight:
    """What was found.

    Attributes:
        source: what was looked at, as its user named it.
        problems: what must be fixed first, one sentence each.
        remarks: what a user should know and what stops nothing.
        rows: by part and role, how many.
        base: its model type, layers, hidden size and parameters.
        room: the estimate of the disk; None where the base is not known.
        steps: the stages to come, in order.
    """

    source: str
    problems: tuple[str, ...]
    remarks: tuple[str, ...]
    rows: Mapping[str, Mapping[str, int]]
    base: Mapping[str, object]
    room: Disk | None
    steps: tuple[str, ...]

    def refuse(self) -> None:
        """Raises InputErrors if there is any problem."""
        if self.problems:
            raise InputErrors(self.source, self.problems)

    def data(self) -> dict[str, object]:
        """As one JSON object."""
        return asdict(self)


def preflight(
    recipe: Recipe, out: Path | None = None, *, publishing: bool = False, forced: bool = False
) -> Preflight:
    """Looks at everything that can be known before a model is loaded; a base on the Hub is fetched for it.

    Args:
        out: the run's folder, for what is free there; runs/NAME by default.
        publishing: whether the targets of the ``publish`` section are to be written too, and its bounds to be shown.
        forced: whether it is published all the same where its bounds do not hold.
    """
    look = _Look(recipe, out or Path("runs") / recipe.name, publishing, forced)
    look.everything()
    return look.found(recipe.name)


def require(recipe: Recipe, out: Path | None = None, *, publishing: bool = False) -> Preflight:
    """:func:`preflight`; raises InputErrors with all problems if there are any."""
    found = preflight(recipe, out, publishing=publishing)
    found.refuse()
    return found


def load_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Load a recipe file; schema errors are raised together with all other problems, in InputErrors."""
    try:
        return Recipe.load(path, changes)
    except InputErrors:
        check_recipe(path, changes).refuse()
        raise


def check_recipe(path: Path, changes: Sequence[str] = (), out: Path | None = None) -> Preflight:
    """:func:`preflight` of a recipe file, also of one that the schema refuses: what is sound of it is looked at all the same."""
    try:
        recipe = Recipe.load(path, changes)
    except InputErrors as error:
        refused, sound = error, draft(path, changes)
    else:
        return preflight(recipe, out, publishing=recipe.publish is not None)
    if sound is None:
        return Preflight(refused.source, refused.problems, (), {}, {}, None, ())
    look = _Look(sound, out or Path("runs") / sound.name, publishing=sound.publish is not None)
    look.everything()
    return look.found(refused.source, refused.problems)


class _Look:
    """One recipe being looked at; what is found is gathered on the way."""

    def __init__(self, recipe: Recipe, out: Path, publishing: bool, forced: bool = False) -> None:
        self.recipe, self.out, self.publishing, self.forced = recipe, out, publishing, forced
        self.problems: list[str] = []
        self.remarks: list[str] = []
        self.facts = BaseFacts()
        self.splits = Splits((), (), ())
        self.room: Disk | None = None

    def everything(self) -> None:
        """Folder, base, parameters, targets, rows, disk."""
        if problem := Workspace.objection(self.out, self.recipe.name, self.recipe.file):
            self.problems.append(problem)
        base = self._base()
        self._parameters()
        self._targets()
        with tempfile.TemporaryDirectory() as images:
            whole = self._rows(Path(images))
            lengths = self._prompts(base) if base is not None else []
        if base is not None and whole:
            self._disk(base, lengths)

    def found(self, source: str, before: Sequence[str] = ()) -> Preflight:
        """What came of it; ``before``: what was wrong already."""
        facts = self.facts
        base = {
            "model_type": facts.model_type,
            "layers": facts.layers,
            "hidden_size": facts.width,
            "parameters": facts.parameters,
        }
        problems = tuple(dict.fromkeys([*before, *self.problems]))
        return Preflight(
            source, problems, tuple(self.remarks), counts(self.splits), base, self.room, tuple(self._steps())
        )

    def _base(self) -> Path | None:
        """The base's folder, where Transformers may open what is in it."""
        if getattr(self.recipe, "base", None) is None:  # a draft may have none
            return None
        self._adapters()
        try:
            folder = located(self.recipe)
        except InputErrors as error:
            self.problems += error.problems
            return None
        self.facts = base_facts(folder)
        self.problems += [f"base: {problem}" for problem in self.facts.problems]
        try:
            refuse_code(folder, trusted=self.recipe.base.trust_remote_code)
        except SteerbakeError as error:
            self.problems.append(f"base: {error}")
            return None  # nothing of a base that was refused is opened by Transformers
        if not self.facts.problems and self._steers():
            self._proof(folder)
        if not self.facts.problems:
            self._edits(folder)
        return folder if (folder / "config.json").is_file() else None

    def _steers(self) -> bool:
        """Whether any of the methods finds a steering program; for a weight edit the base need not be one that can be steered."""
        names = self.recipe.methods.names
        return any(self.recipe.yields(name) == "program" for name in names)

    def _proof(self, base: Path) -> None:
        """A tiny twin of the base keeps the laws of a steered checkpoint; seconds, and once for each kind of config."""
        try:
            with told_of(f"{base}: a tiny twin cannot be tested"):
                prove_family(config_of(base))
        except SteerbakeError as error:
            problems = error.problems if isinstance(error, InputErrors) else [str(error)]
            self.problems += [f"base: {problem}" for problem in problems]

    def _edits(self, base: Path) -> None:
        """What the base cannot hold of weight edits that the methods would train."""
        try:
            with told_of(f"{base}: a model cannot be built from config.json"):
                self.problems += edit_problems(self.recipe, self.facts)
        except SteerbakeError as error:
            problems = error.problems if isinstance(error, InputErrors) else [str(error)]
            self.problems += [f"base: {problem}" for problem in problems]

    def _adapters(self) -> None:
        """Adapters that do not change weights cannot be merged."""
        try:
            reasons = map(why_not_mergeable, fetched_adapters(self.recipe))
            self.problems += [f"base.adapters: {reason}" for reason in reasons if reason is not None]
        except InputErrors as error:
            self.problems += error.problems

    def _parameters(self) -> None:
        """Checks of a method's layers and ranks against the model's sizes, and the method's own checks."""
        names = self.recipe.methods.names
        self.remarks += [
            f"methods.params.{name} has no effect: {name} is neither methods.default nor in methods.compare"
            for name in self.recipe.methods.params
            if name not in names
        ]
        for name in self.recipe.methods.names:
            given, where = self.recipe.methods.params.get(name, {}), f"methods.params.{name}"
            self.problems += parameter_problems(name, given, where, self.facts.layers, self.facts.width)

    def _few_shots(self) -> None:
        """Refusals that are read behind a few refused questions need so many of them."""
        for name in self.recipe.methods.names:
            few = too_few_shots(name, self.recipe.methods.params.get(name, {}), self.splits.fit)
            if few is not None and few.needed:
                self.problems.append(few.message)
            elif few is not None:
                self.remarks.append(f"if the model does not refuse the unknown rows by itself, {few.message}")

    def _searches(self) -> None:
        """What searches on calibration rows needs some to keep."""
        for name in self.recipe.methods.names:
            if blind := searches_blindly(name, self.recipe.methods.params.get(name, {}), self.splits):
                self.problems.append(blind)

    def _targets(self) -> None:
        publish = self.recipe.publish
        if not self.publishing or publish is None:
            return
        method = self.recipe.methods.default
        yields = self.recipe.yields(method)
        for target in map(registry.target, self.recipe.targets):
            takes = registry.takes(target.name)
            if yields not in takes:
                self.problems.append(
                    f"publish.targets: {target.name} is made of {KINDS[takes[0]]}, and {method} finds {KINDS[yields]}; remove {target.name}"
                )
                continue
            absent = [name for name in target.modules if find_spec(name) is None]
            if absent:
                install = " ".join(dict.fromkeys(target.modules.values()))
                self.problems.append(
                    f"publish.targets: {target.name} needs {', '.join(absent)}, which is not installed: pip install {install}"
                )
            try:
                self._target(target, publish.options(target), yields)
            except SteerbakeError as error:
                self.problems.append(f"publish.targets: {target.name}: {error}")

    def _target(self, target: AnyTarget, options: TargetOptions, yields: Yields) -> None:
        """Raises SteerbakeError where a target cannot be made of this base, or not with what is installed."""
        facts = self.facts
        config = facts.config if facts.model_type is not None and not facts.problems else None
        if config is not None and (reason := why_no_target(target.name, config, yields)):
            raise CompileError(reason)
        target.check(options, config, facts.weights)

    def _rows(self, images: Path) -> bool:
        """Reads all parts; whether all of them could be read."""
        rows, wrong = read_parts(self.recipe, images)
        self.problems += wrong
        self.splits = split(self.recipe, rows)
        self.problems += shortened(self.splits.problems())
        self.remarks += remarks(self.splits)
        if not wrong:  # otherwise the missing rows may be in a file that could not be read
            aside = self.recipe.data.calibrate is None
            self.problems += missing_roles(self.splits, self.recipe.methods.names, aside=aside)
            self._few_shots()
            self._searches()
            self._bounds()
        return not wrong

    def _bounds(self) -> None:
        """Bounds that these test rows could not show to hold, whatever is fitted."""
        if self.publishing and self.recipe.publish is not None and not self.forced:
            required = self.recipe.publish.require
            self.problems += rows_lacking(self.splits.test, required)
            if required.judge:
                try:
                    EndpointJudge.from_environment()
                except InputErrors as error:
                    self.problems += [f"publish.require.judge: {one}" for one in error.problems]

    def _prompts(self, base: Path) -> list[int]:
        """Renders every row as the model will see it; returns how many tokens each takes that a fit reads."""
        problems: list[str] = []
        try:
            with told_of(f"{base}: its tokenizer cannot be used"):
                lengths = self._lengths(base)
                for part in ("fit", "calibrate", "test"):
                    problems += lengths.problems(part, getattr(self.splits, part))
        except SteerbakeError as error:
            reasons = error.problems if isinstance(error, InputErrors) else [str(error)]
            self.problems += [f"base: {problem}" for problem in reasons]
            return []
        self.problems += problems
        return lengths.sizes

    def _lengths(self, base: Path) -> RowLengths:
        """Measures the rows' lengths; raises SteerbakeError if prompts cannot be rendered."""
        settings = self.recipe.chat
        trust = self.recipe.base.trust_remote_code
        with told_of(f"{base}: Transformers cannot read config.json"):
            config = AutoConfig.from_pretrained(base, trust_remote_code=trust)
        check_pad_token(config, base)
        processor = open_reader(base, config, trust_remote_code=trust)
        chat = Chat(processor, system=settings.system, reasoning_template=settings.reasoning_template)
        chat.headers  # noqa: B018 - raises where the template has none
        room = Room.of(config, self.recipe.report.max_new_tokens)
        pad = chat.tokenizer.pad_token_id
        if pad is not None and room.vocabulary is not None and pad >= room.vocabulary:
            self.remarks.append(
                f"the pad token has the id {pad}, but the model has only {room.vocabulary} embeddings: steerbake pads with another id, "
                "but your own batches will fail as they do with the base; save the base again after "
                "resize_token_embeddings(len(tokenizer))"
            )
        return RowLengths(chat, room, image_ids(config))

    def _disk(self, base: Path, lengths: list[int]) -> None:
        self.room = disk(self.recipe, base, self.facts, self.out, lengths, publishing=self.publishing)
        if self.room.missing:
            self.problems.append(
                f"disk: {self.room.described()} at {self.out}; free {amount(self.room.missing)}, or give a folder on another disk with "
                "--out"
            )

    def _steps(self) -> Iterator[str]:
        methods = self.recipe.methods.names
        yield from (f"fit {name}" for name in methods)
        yield "evaluate the base on the test rows"
        yield from (f"compile {name} and evaluate it on the test rows" for name in methods)
        yield "report"
        if self.publishing and self.recipe.publish is not None:
            yields = self.recipe.yields(self.recipe.methods.default)
            yield from (f"export {target}" for target in registry.in_order(self.recipe.targets, yields))
            yield "verify and describe the release"
