"""The recipe: one YAML file that names a base model, rows, methods and how to measure them.

Everything wrong with a recipe is reported at once, by key path.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
)
from pydantic_core import PydanticCustomError

from exporter import registry
from exporter.errors import InputErrors
from exporter.recipe_bounds import Strict
from exporter.recipe_keys import described
from exporter.recipe_publish import REPO, Publish
from exporter.recipe_tree import override, read_tree
from exporter.types import Role

if TYPE_CHECKING:
    from exporter.methods.base import Yields

    Format = str
else:
    Format = Literal[("rows", *registry.READERS)]
NAME = r"^[a-z0-9][a-z0-9_.-]*$"
Dtype = Literal["float32", "bfloat16", "float16"]


class BaseModelSource(Strict):
    """The model to steer: a local folder (``path``, relative to the recipe file) or a Hub name (``repo``).

    ``adapters``: peft adapters to merge into it first, in order; folders, or Hub names.
    ``trust_remote_code``: run the code of its tokenizer or processor, and include it in the release.
    """

    path: str | None = None
    """Folder of the model, relative to the recipe file."""
    repo: str | None = None
    """Name on the Hub, instead of `path`; without network access, it is read from the cache."""
    revision: str | None = None
    """Branch, tag or commit of `repo`."""
    adapters: list[str] = Field(default=[])
    """peft adapters to merge into the base first, in order: folders or names on the Hub."""
    dtype: Dtype = "float32"
    """dtype in which hidden states are computed."""
    device: str = "auto"
    """A PyTorch device; `auto` is the GPU if there is one."""
    trust_remote_code: bool = False
    """Run the code that comes with the tokenizer or processor, and include it in the release. Code of the model itself is refused."""


class Source(Strict):
    """Rows from a local file (``path``, relative to the recipe file) or a ``datasets`` name.

    ``format`` names a reader; a public schema has no roles, so ``role`` sets the role of all its rows.
    """

    path: str | None = None
    """File or folder, relative to the recipe file. A string in place of a source is its path."""
    dataset: str | None = None
    """A name for the `datasets` library, instead of `path`."""
    format: Format = "rows"
    """Schema of the records; `rows` is described below."""
    role: Role | None = None
    """Role of every row of a public schema. With `rows`, the role of rows without one; rows of another role are dropped."""
    name: str | None = None
    """Configuration of the data set."""
    split: str | None = None
    """Split of the data set."""
    limit: int | None = Field(default=None, gt=0)
    """Maximum number of rows; the first ones are read."""


def _as_source(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


SourceLike = Annotated[Source, BeforeValidator(_as_source)]


class Data(Strict):
    """The rows for fit, calibration and test.

    Without ``calibrate``, a fraction of the fit rows is set aside: whole wordings (rows with one ``template_id``) by role.
    """

    fit: list[SourceLike] = Field(min_length=1)
    """Rows that the method is fitted on."""
    calibrate: list[SourceLike] | None = None
    """Rows on which gate, layer and threshold are chosen."""
    calibrate_fraction: float = Field(default=0.3, gt=0.0, lt=1.0)
    """Fraction of the fit rows used for calibration if `calibrate` is empty."""
    test: list[SourceLike] = Field(min_length=1)
    """Rows for evaluation; used only by the report."""


class ChatSettings(Strict):
    """How prompts are rendered and where a response contains its reasoning."""

    system: str | None = None
    """System prompt of every conversation."""
    reasoning_template: str = "<think> {reasoning} </think> {answer}"
    """The form of a response with reasoning; `{answer}` for a model without reasoning."""


class Refusals(Strict):
    """Which replies count as a fluent refusal.

    ``from_rows`` accepts, word for word, every reply that the fit rows give to role ``unknown``.
    """

    from_rows: bool = True
    """Accept the answers of the fit rows of role `unknown`, word for word."""
    accepted: list[str] = Field(default=[])
    """Further replies that count as refusals, word for word."""
    patterns: list[str] = Field(default=[])
    """Regular expressions; a reply that matches one completely is a refusal."""


class Methods(Strict):
    """The method that is compiled, the methods to compare it with, and parameters by method."""

    default: str = "keyed"
    """The method that is compiled into the resulting checkpoint."""
    compare: list[str] = Field(default=["r_muse", "r_muse_calibrated"])
    """Further methods to fit and evaluate for comparison."""
    params: dict[str, dict[str, object]] = Field(default={})
    """Parameters by method; see below."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every method to fit: the default first, no name twice."""
        return tuple(dict.fromkeys([self.default, *self.compare]))


class ReportSettings(Strict):
    """How the test rows are evaluated; ``eval_slices`` describes the rows of each slice for readers of the report."""

    max_new_tokens: int = Field(default=64, gt=0)
    """Maximum length of a reply, in tokens."""
    batch_size: int = Field(default=32, gt=0)
    """Prompts per batch."""
    eval_slices: dict[str, str] = Field(default={})
    """A description of each slice."""
    folds: int = Field(default=0, ge=0, le=20)
    """Folds of the cross-validation over fit and calibration rows, for the default method; 0 for none."""
    attacks: list[str] = Field(default=[])
    """Attacks that are also applied to test rows; each is a slice of the report (docs/report.md, under attacks)."""

    @field_validator("attacks")
    @classmethod
    def _there_are(cls, names: list[str]) -> list[str]:
        known = registry.attacks()
        if unknown := [name for name in names if name not in known]:
            message = f"unknown attack {unknown[0]!r}; valid attacks: {', '.join(sorted(known))}"
            raise PydanticCustomError("unknown_attack", message.replace("{", "{{"))
        if past := [name for name in names if hasattr(known[name], "rendered")]:
            message = f"{past[0]} asks without the chat template, and a report asks with it; remove it, and use steerbake attack"
            raise PydanticCustomError("attack_past_template", message.replace("{", "{{"))
        return list(dict.fromkeys(names))


class Recipe(Strict):
    """A complete recipe. ``stand_in``: a sentence for readers of the report if the base is a toy model."""

    name: str = Field(pattern=NAME)
    """Name of the run's folder."""
    description: str = ""
    """Description, for readers of the recipe."""
    stand_in: str | None = None
    """A sentence for readers of the report if the base is a toy model."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of all random numbers."""
    base: BaseModelSource
    """The model to steer."""
    data: Data
    """The rows."""
    chat: ChatSettings = ChatSettings()
    """How prompts are rendered."""
    refusals: Refusals = Refusals()
    """What counts as a refusal."""
    methods: Methods = Methods()
    """What is fitted."""
    report: ReportSettings = ReportSettings()
    """How the test rows are evaluated."""
    publish: Publish | None = None
    """How the result is published; only `steerbake publish` needs it."""
    _folder: Path = PrivateAttr(default_factory=Path)
    _file: Path | None = PrivateAttr(default=None)

    def yields(self, method: str) -> Yields:
        """What a method finds: a steering program, or a weight edit."""
        return registry.resolve(registry.METHODS, "method", method).yields

    @property
    def targets(self) -> list[str]:
        """What is exported beside the checkpoint for a release."""
        return [] if self.publish is None else self.publish.wanted(self.yields(self.methods.default))

    @property
    def file(self) -> Path | None:
        """Where it was read from; None for a recipe that was made in memory."""
        return self._file

    def locate(self, path: str) -> Path:
        """A path of the recipe: absolute paths unchanged, others relative to the recipe file's folder."""
        return _located(self._folder, path)

    @classmethod
    def load(cls, path: Path, overrides: Sequence[str] = ()) -> Recipe:
        """Read a recipe file.

        Args:
            overrides: ``a.b=value``, with the value written as YAML.

        Raises:
            InputErrors: everything wrong with the recipe, by key path.
        """
        tree = read_tree(path)
        problems = [problem for text in overrides for problem in override(tree, text, cls)]
        if problems:
            raise InputErrors(f"--set for {path}", problems)
        folder = path.resolve().parent
        broken: set[object] = set()
        try:
            recipe = cls.model_validate(tree)
        except ValidationError as error:
            problems = [described(one, cls) for one in error.errors()]
            broken = {key for one in error.errors() for key in one["loc"][:1]}
        problems += _mistakes(tree, broken, folder)
        if problems:
            raise InputErrors(str(path), problems)
        recipe._folder, recipe._file = folder, path.resolve()
        return recipe


def _located(folder: Path, path: str) -> Path:
    return (folder / Path(path).expanduser()).resolve()


def _mistakes(tree: Mapping[str, object], broken: Collection[object], folder: Path) -> Iterator[str]:
    """What a schema alone cannot see: contradictions, paths that are not there, unknown methods.

    Args:
        tree: the recipe as read.
        broken: keys of ``tree`` whose sections the schema has refused; what they hold is not looked at again.
        folder: what paths are relative to.
    """
    if "base" not in broken:
        yield from _base_mistakes(BaseModelSource.model_validate(tree["base"]), folder)
    if "data" not in broken:
        yield from _data_mistakes(Data.model_validate(tree["data"]), folder)
    if "chat" not in broken:
        yield from _chat_mistakes(ChatSettings.model_validate(tree.get("chat", {})))
    if "refusals" not in broken:
        yield from _refusal_mistakes(Refusals.model_validate(tree.get("refusals", {})))
    if "methods" not in broken:
        yield from _method_mistakes(Methods.model_validate(tree.get("methods", {})))
    if "publish" not in broken and tree.get("publish") is not None:
        methods = None if "methods" in broken else Methods.model_validate(tree.get("methods", {}))
        yield from _publish_mistakes(Publish.model_validate(tree["publish"]), methods)


def _base_mistakes(base: BaseModelSource, folder: Path) -> Iterator[str]:
    if (base.path is None) == (base.repo is None):
        yield "base: give either path (a local folder) or repo (a Hub name)"
    elif base.path is not None and not _located(folder, base.path).is_dir():
        yield f"base.path: no folder {_located(folder, base.path)}"
    if base.revision is not None and base.repo is None:
        yield "base.revision: only a Hub repo has revisions; remove it, or give base.repo"
    for place, name in enumerate(base.adapters):
        if not _located(folder, name).is_dir() and not re.fullmatch(REPO, name):
            yield f"base.adapters.{place}: no folder {_located(folder, name)}, and {name!r} is not a Hub name (OWNER/NAME)"


def _data_mistakes(data: Data, folder: Path) -> Iterator[str]:
    if data.calibrate is not None and "calibrate_fraction" in data.model_fields_set:
        yield "data: calibrate and calibrate_fraction exclude each other; give one of them"
    for part in ("fit", "calibrate", "test"):
        for index, source in enumerate(getattr(data, part) or ()):
            where = f"data.{part}.{index}"
            if (source.path is None) == (source.dataset is None):
                yield f"{where}: give either path (a local file) or dataset (a name for the datasets library)"
            elif source.path is not None and not _located(folder, source.path).exists():
                yield f"{where}.path: no file {_located(folder, source.path)}"


def _chat_mistakes(chat: ChatSettings) -> Iterator[str]:
    template = chat.reasoning_template
    if sorted(re.findall(r"\{(.*?)\}", template)) not in (["answer"], ["answer", "reasoning"]):
        yield f"chat.reasoning_template: must contain {{answer}} once and may contain {{reasoning}} once; received {template!r}"


def _refusal_mistakes(refusals: Refusals) -> Iterator[str]:
    for index, text in enumerate(refusals.accepted):
        if not text.strip():
            yield f"refusals.accepted.{index}: is empty, and an empty reply is not a refusal"
    for index, pattern in enumerate(refusals.patterns):
        if problem := _pattern_problem(pattern):
            yield f"refusals.patterns.{index}: {pattern!r} {problem}"


def _pattern_problem(pattern: str) -> str | None:
    try:
        empty = re.fullmatch(pattern, "")
    except re.error as error:
        return f"is not a regular expression: {error}"
    return "matches an empty reply, which is not a refusal" if empty else None


def _publish_mistakes(publish: Publish, methods: Methods | None) -> Iterator[str]:
    targets = publish.targets
    if not publish.forgotten.strip():
        yield "publish.forgotten: is empty; describe the forget set in your own words"
    if len(set(targets)) < len(targets):
        yield f"publish.targets: a target occurs twice; received {targets!r}"
    if methods is not None and methods.default in registry.METHODS:
        yields = registry.resolve(registry.METHODS, "method", methods.default).yields
        yield from _target_mistakes(targets, yields)
    if publish.license is None and (publish.license_name or publish.license_link):
        yield "publish.license: license_name and license_link need license; set it (to other for a licence without an identifier)"


def _target_mistakes(targets: Sequence[str], yields: Yields) -> Iterator[str]:
    """Targets whose source is missing among them, of what a method yields."""
    for name in targets:
        made_of = registry.made_of(name, yields, targets)
        if made_of is not None and registry.target(made_of).requires and made_of not in targets:
            yield f"publish.targets: {name} is made from {made_of}; add {made_of}"


def _method_mistakes(methods: Methods) -> Iterator[str]:
    from exporter.registry import METHODS

    places = [("methods.default", methods.default)]
    places += [(f"methods.compare.{index}", name) for index, name in enumerate(methods.compare)]
    places += [(f"methods.params.{name}", name) for name in methods.params]
    for where, name in places:
        if name not in METHODS:
            yield f"{where}: unknown method {name!r}; valid methods: {', '.join(sorted(METHODS))}"
    for name, params in methods.params.items():
        if name in METHODS:
            yield from _parameter_mistakes(name, params)


def _parameter_mistakes(name: str, params: Mapping[str, object]) -> Iterator[str]:
    from exporter.registry import METHODS, resolve

    schema: type[BaseModel] = resolve(METHODS, "method", name).Params
    try:
        schema.model_validate(params)
    except ValidationError as error:
        yield from (described(one, schema, ("methods", "params", name)) for one in error.errors())
