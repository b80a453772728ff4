"""The contract of a target: one way to write a steering program into something that loads without this library.

Light on purpose: names, options and recipe keys of every target are read by ``--help`` and by a recipe, which load no PyTorch.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from exporter.errors import VerificationError
from exporter.methods.base import Yields
from exporter.registry import REFERENCE
from exporter.targets.values import (
    CalibrationSet,
    ChatModel,
    Completions,
    Distilled,
    FileKind,
    Finding,
    LoadedTarget,
    Nearness,
    Parity,
    Place,
    Reference,
    RenderedChat,
    Summary,
    UsageSnippet,
)

if TYPE_CHECKING:
    from torch import Tensor

    from exporter.host import ModelHost
    from exporter.inspection import Inspection
    from exporter.weight_edit import WeightEdit
    from steer_modules.program import SteeringProgram


class TargetOptions(BaseModel):
    """What may be asked of an export. A field with a :class:`Flag` is an option of the command, one with a :class:`RecipeKey` a key of recipes."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    @classmethod
    def flags(cls) -> dict[str, Flag]:
        """The options that the command has, by field."""
        return {name: one for name, one in cls._marked() if isinstance(one, Flag)}

    @classmethod
    def recipe_keys(cls) -> dict[str, RecipeKey]:
        """The options that a recipe has, by field."""
        return {name: one for name, one in cls._marked() if isinstance(one, RecipeKey)}

    @classmethod
    def _marked(cls) -> Iterator[tuple[str, object]]:
        yield from ((name, one) for name, field in cls.model_fields.items() for one in field.metadata)

    def for_release(self, name: str) -> TargetOptions:
        """The same for a release whose files may be called ``name``."""
        del name
        return self


@dataclass(frozen=True)
class Flag:
    """How ``steerbake export NAME`` asks for an option."""

    name: str
    help: str
    metavar: str | None = None


@dataclass(frozen=True)
class RecipeKey:
    """That the section ``publish`` of a recipe has the option too, as TARGET_OPTION.

    Attributes:
        type: a list, as the recipe's schema has it; an empty one leaves the option at its default.
        limits: of pydantic's ``Field``.
    """

    type: object
    meaning: str
    default: Sequence[str] = ()
    limits: Mapping[str, object] = field(default_factory=dict)


class ExportContext(Protocol):
    """What an export can get from the pipeline; each item is created on first use."""

    def rendered(self, checkpoint: Path, scratch: Path) -> RenderedChat:
        """The checkpoint's chat template; pictures are drawn into ``scratch``, which must outlive what is returned."""
        ...

    def calibration(self, checkpoint: Path, *, code: Sequence[str]) -> tuple[ModelHost, CalibrationSet]:
        """The unsteered base, and conversations from the rows of the recipe that the checkpoint was fitted by.

        Args:
            code: files of this library that decide what is asked of the exact model; its answers are kept by their digest too.

        Raises:
            CompileError: no recipe was named, or one of another base.
        """
        ...

    def distilled(self, checkpoint: Path, settings: Mapping[str, object]) -> Distilled:
        """An adapter of the base that was trained to what the checkpoint says on the calibration conversations of its recipe.

        Args:
            settings: of the training.

        Raises:
            CompileError: no recipe was named, or one of another base.
            FitError: the training diverged.
        """
        ...

    def nearness(self, checkpoint: Path, edit: WeightEdit) -> Nearness:
        """How far an adapter of the base lies from what the checkpoint says on the conversations that :meth:`distilled` holds out.

        Raises:
            CompileError: no recipe was named, or one of another base.
            FitError: the adapter does not fit the base.
        """
        ...


OptionsT = TypeVar("OptionsT", bound=TargetOptions)


class Target(ABC, Generic[OptionsT]):
    """One way to write a steering program. A subclass in a light module of its own, and a line in the registry, are all there is to add."""

    name: ClassVar[str]
    """Also of its folder in a release and of its command."""
    title: ClassVar[str]
    """The runtime, for readers of a card."""
    artifact: ClassVar[str]
    """What its folder is, as a sentence for the help of commands that read one."""
    help: ClassVar[str] = ""
    """What its command does."""
    marker: ClassVar[str]
    """The file that identifies its folders; a JSON object that lists its ``files``."""
    Options: type[OptionsT]
    by_default: ClassVar[bool] = False
    """Whether it is exported if a recipe does not list targets."""
    requires: ClassVar[tuple[str, ...]] = (REFERENCE,)
    """The targets that it can be made from, the preferred one first; none for one that is compiled of a base and what a method has found: it lies
    at the root of a release."""
    of_fit: ClassVar[bool] = False
    """Whether it is made of what a method has found itself, in place of the target that it requires."""
    takes: ClassVar[Yields] = "program"
    """What a method must have found, of one at the root; others take what those that they are made from take (:func:`exporter.registry.takes`)."""
    serves: ClassVar[bool] = False
    """Whether servers that put several requests into one row can run it."""
    calibrates: ClassVar[bool] = False
    """Whether it is solved on the rows of a recipe."""
    holds_program: ClassVar[bool] = False
    """Whether the steering program can be read back from its folder, where it was made of one."""
    instead_of_chat: ClassVar[str] = ""
    """What to do where no conversation can be held with it, a sentence without its subject."""
    parity: ClassVar[Parity] = Parity()
    remedy: ClassVar[str] = "remove this target"
    """The fix for a release in which it is outside the bounds."""
    modules: ClassVar[Mapping[str, str]] = {}
    """Modules that it is written with, each with what pip is to install for it."""
    errors: ClassVar[tuple[str, ...]] = ()
    """Its own exceptions that a user can fix, as MODULE:CLASS."""
    files: ClassVar[tuple[FileKind, ...]] = ()
    """What its files hold, by patterns within its folder; the first that fits counts."""
    code: ClassVar[Mapping[str, Path]] = {}
    """Code that travels in its folder by name, and where it is from."""

    def __init_subclass__(cls, **keywords: object) -> None:
        """Raises TypeError for one name in place of several: its letters would be taken for names."""
        super().__init_subclass__(**keywords)
        if not isinstance(cls.requires, tuple):
            raise TypeError(
                f"requires of {cls.__name__} is {cls.requires!r}, not a tuple of names of targets"
            )

    @property
    def folder_kind(self) -> str:
        """What a folder of it is called."""
        return f"{self.name} folder"

    def is_at(self, folder: Path) -> bool:
        """Whether the folder is one."""
        return (folder / self.marker).is_file()

    def named_files(self, folder: Path) -> Iterable[str]:
        """The files that the folder says it is made of.

        Raises:
            OSError, ValueError, KeyError, TypeError, AttributeError: the folder does not say so in a way that can be read.
        """
        named: Mapping[str, object] = json.loads((folder / self.marker).read_text(encoding="utf-8"))["files"]
        return named

    def lower(self, program: SteeringProgram) -> list[str]:
        """What of a program cannot be expressed, a sentence each with what to do; nothing where all of it can."""
        del program
        return []

    def check_family(self, config: Mapping[str, object], yields: Yields = "program") -> None:
        """Raises SteerbakeError if it cannot be written for a base, judged by its config.json.

        Args:
            yields: what the method finds that it is to be made of.
        """
        del config, yields

    def check(self, options: OptionsT, config: Mapping[str, Any] | None, weights: object) -> None:
        """Looks, before anything is fitted, at what :meth:`export` would need.

        Args:
            config: content of the base's config.json; None where the base is not sound.
            weights: its headers (:class:`exporter.targets.base_weights.BaseWeights`); None where they cannot be read.

        Raises:
            SteerbakeError: it cannot be written for this base, or not with what is installed.
        """
        del options, config, weights

    def disk(self, options: OptionsT, parameters: int, weights: int) -> int:
        """Bytes that it will take, roughly.

        Args:
            weights: bytes of the base's weights.
        """
        del options, parameters
        return weights

    def validate(self, options: OptionsT) -> None:
        """Raises CompileError for a choice that there is not, before the source is looked at."""
        del options

    def advice(self, options: OptionsT) -> str | None:
        """What to do before what was written is used, in one line."""
        del options
        return None

    @abstractmethod
    def export(self, source: Path, out: Path, options: OptionsT, context: ExportContext) -> Path:
        """Writes the folder ``out``, whole or not at all, and returns it.

        Args:
            source: a folder of one of the targets that this one requires.

        Raises:
            CompileError: ``out`` exists, or the source cannot be expressed.
            VerificationError: the source, or what was written, is not what it claims to be.
        """

    @abstractmethod
    def open(self, folder: Path, reference: Reference) -> LoadedTarget:
        """Checks the files of a folder against its own manifest, and opens it.

        Raises:
            KeyError, ValueError, OSError: the manifest cannot be read.
            VerificationError: a file is missing or was changed, or no part of it can be run.
        """

    def origin(self, folder: Path) -> Mapping[str, object]:
        """What a folder says of itself that it was made of, for one that is opened alone, away from its release.

        Returns:
            ``sha256`` of the steering section or edit, and under ``base`` ``fingerprint`` and ``settings`` of the base, where it says so.

        Raises:
            VerificationError, ValueError: it does not say so, or the folder is not what it claims to be.
        """
        if not self.requires:
            return self.section(folder)
        raise VerificationError(
            f"{folder} does not say what it was made of; give the release that contains it, whose checkpoint it is held to"
        )

    @abstractmethod
    def check_loads(
        self, loaded: LoadedTarget, completions: Completions, trusted: Path | None = None
    ) -> Finding:
        """Whether it loads completely in a clean environment, generates the same tokens there, and does not load if it is damaged.

        Args:
            completions: tokens of the steered checkpoint.
            trusted: a base whose own code may be run.

        Raises:
            VerificationError: code in it is not what this version or an earlier one writes, and is not run; or it does not load.
        """

    def measured_again(
        self, loaded: LoadedTarget, checkpoint: Path, context: ExportContext, bounds: Mapping[str, object]
    ) -> Finding | None:
        """Whether the figures in its manifest that were measured on the recipe's rows are still found; None where there are none.

        Args:
            checkpoint: the folder that it is held to.
            bounds: of the recipe (``publish.require``), by name.
        """
        del loaded, checkpoint, context, bounds
        return None

    @abstractmethod
    def describe(self, release: Path, place: Place) -> UsageSnippet:
        """How the target within a published folder is loaded; it names only files that are there.

        Raises:
            VerificationError: the folder lacks a file of it.
        """

    def chat(self, folder: Path, *, dtype: str | None, say: Callable[[str], None]) -> ChatModel | None:
        """The folder opened for one conversation; None where none can be held. ``say`` is told what runs where.

        Raises:
            InputErrors: there is no such dtype.
            VerificationError, ValueError: the folder is not whole.
        """
        del folder, dtype, say
        return None

    def inspect(self, folder: Path) -> Inspection:
        """The program of a folder that holds one, with its files checked.

        Raises:
            VerificationError, ValueError: there is none, or the folder is not what it claims to be.
        """
        from exporter.inspection import examine

        return examine(folder)

    def section(self, folder: Path) -> Mapping[str, object]:
        """What the base was changed by, of a target at the root of a release: ``method``, ``base``, ``gates``, ``edits`` and ``sha256`` at least.

        Raises:
            VerificationError, ValueError: the folder is not what it claims to be.
        """
        return self.inspect(folder).section

    def steering_tensors(self, folder: Path, manifest: Mapping[str, object]) -> Mapping[str, Tensor]:
        """The tensors of the program in a folder, by name, where it holds one.

        Args:
            manifest: content of the file that marks the folder.

        Raises:
            ValueError, KeyError, TypeError, OSError: they are not there, or not those of the manifest.
        """
        del manifest
        raise ValueError(f"{folder} contains no steering program that can be read back")

    def summary(self, folder: Path, *, checked: bool) -> Summary | None:
        """The summary of a folder; None if only its path and program matter.

        Args:
            checked: hold every file to its digest first; raises VerificationError where one is another.
        """
        del folder, checked
        return None

    def texts(self, path: Path) -> Iterable[str]:
        """The texts in a file of a kind that only this target knows; none in others. A release is searched for what it must not tell in them."""
        del path
        return ()


AnyTarget = Target[Any]
