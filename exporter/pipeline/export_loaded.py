"""A target by its name and options, for callers without a recipe: what is solved on rows is solved with a loaded base and rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from exporter import registry
from exporter.data.chat import Chat
from exporter.errors import CompileError, InputErrors
from exporter.fitting.context import FitContext
from exporter.host import ModelHost
from exporter.inspection import examine
from exporter.model_folder import read_object
from exporter.pipeline.calibration_set import calibration_set
from exporter.pipeline.distillation import distilled, nearness
from exporter.pipeline.export import Rendering, export
from exporter.pipeline.loaded_base import refuse_loaded
from exporter.pipeline.loaded_context import at_rest, context_of, parted, working
from exporter.pipeline.loaded_edited_base import edited_base_of
from exporter.pipeline.loaded_fingerprint import fingerprint_of
from exporter.pipeline.same_base import other_setting
from exporter.pipeline.sources import refuse_source
from exporter.recipe_keys import described
from exporter.settings import Settings
from exporter.targets.base import AnyTarget
from exporter.targets.values import CalibrationSet, Distilled, Nearness
from exporter.weight_edit import WeightEdit

ModelT = TypeVar("ModelT", bound=BaseModel)


class FittedOn(BaseModel):
    """What the program of a checkpoint was fitted on, as :func:`exporter.api.fit` was given it."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    model: Any
    """The unsteered base, in float32."""
    processor: Any
    rows: Any
    calibrate: Any = None
    settings: Settings | None = None
    work: Path | None = None


class _NoParams(BaseModel):
    """Of the method, whichever it was: rows and model decide what a target is solved on."""


def export_loaded(checkpoint: Path, out: Path, name: str | None, given: Mapping[str, object]) -> Path:
    """Writes the folder ``out`` of a target, whole or not at all; see :func:`exporter.api.export`."""
    target = registry.target(name or _default())
    _refuse_unknown(target, given)
    options = _read(target, target.Options, given)
    target.validate(options)
    if not target.calibrates:
        return export(target.name, checkpoint, out, options)
    refuse_source(target, checkpoint)
    fitted_on = _read(target, FittedOn, given)
    refuse_loaded(fitted_on.model)
    with at_rest(fitted_on.model), working(fitted_on.work) as folder:
        return target.export(checkpoint, out, options, _OfLoaded(fitted_on, folder))


@dataclass(frozen=True)
class _OfLoaded(Rendering):
    """What targets need, from a model in memory; see :class:`exporter.targets.base.ExportContext`."""

    fitted_on: FittedOn
    work: Path

    def calibration(self, checkpoint: Path, *, code: Sequence[str]) -> tuple[ModelHost, CalibrationSet]:
        del code  # the exact model's answers are not stored
        context = self._context(checkpoint)
        assert isinstance(context.chat, Chat)
        return context.host, calibration_set(context, context.chat)

    def distilled(self, checkpoint: Path, settings: Mapping[str, object]) -> Distilled:
        context = self._context(checkpoint)
        assert isinstance(context.chat, Chat)
        base = edited_base_of(self.fitted_on.model)
        return distilled(context, calibration_set(context, context.chat), checkpoint, settings, base)

    def nearness(self, checkpoint: Path, edit: WeightEdit) -> Nearness:
        context = self._context(checkpoint)
        assert isinstance(context.chat, Chat)
        return nearness(context, calibration_set(context, context.chat), checkpoint, edit)

    def _context(self, checkpoint: Path) -> FitContext:
        """Of a fit with the loaded model; raises CompileError where it is not the checkpoint's base."""
        given = self.fitted_on
        reason = None
        if fingerprint_of(given.model) != examine(checkpoint).program.base.fingerprint:
            reason = "its weights are others"
        elif key := other_setting(
            read_object(checkpoint / "config.json", strict=False), given.model.config.to_dict()
        ):
            reason = f"{key} is another"
        if reason is not None:
            raise CompileError(
                f"{checkpoint} was compiled from another base than the loaded {type(given.model).__name__}: {reason}; load its own base"
            )
        settings = given.settings or Settings()
        splits = parted(given.rows, given.calibrate, settings)
        return context_of(given.model, given.processor, splits, _NoParams(), settings, self.work)


def _default() -> str:
    """The default target in addition to the checkpoint."""
    return next(name for name, one in registry.exports().items() if one.by_default)


def _schemas(target: AnyTarget) -> list[type[BaseModel]]:
    return [target.Options, FittedOn] if target.calibrates else [target.Options]


def _refuse_unknown(target: AnyTarget, given: Mapping[str, object]) -> None:
    known = [name for schema in _schemas(target) for name in schema.model_fields]
    if wrong := [name for name in given if name not in known]:
        valid = ", ".join(known) or "none"
        raise InputErrors(
            f"export {target.name}", [f"{name}: unknown option; valid options: {valid}" for name in wrong]
        )


def _read(target: AnyTarget, schema: type[ModelT], given: Mapping[str, object]) -> ModelT:
    try:
        return schema(**{name: value for name, value in given.items() if name in schema.model_fields})
    except ValidationError as error:
        problems = [described(one, schema) for one in error.errors()]
        raise InputErrors(f"export {target.name}", problems) from error
