"""A steered checkpoint's pupil: what the checkpoint says on the calibration set of a recipe, learned by an adapter of the base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.inspection import examine
from exporter.splits import digest_of_rows
from exporter.targets.answers import answer
from exporter.targets.values import CalibrationSet, Distilled, Nearness
from exporter.training.distil import Lesson, distil, lessons, measured
from exporter.training.lora import edited
from exporter.training.settings import TrainingSettings

if TYPE_CHECKING:
    from exporter.fitting.context import FitContext
    from exporter.host import ModelHost
    from exporter.weight_edit import EditedBase, WeightEdit
    from steer_modules.program import SteeringProgram


def distilled(
    context: FitContext,
    calibration_set: CalibrationSet,
    checkpoint: Path,
    settings: Mapping[str, object],
    base: EditedBase,
) -> Distilled:
    """An adapter that was trained to what a checkpoint says, and how far it lies from it on conversations that were held out.

    Args:
        context: of the fit, with the unsteered base.
        settings: of the training (:class:`exporter.training.settings.TrainingSettings`).
        base: what the adapter is to note of its base.

    Raises:
        FitError: the model has no layer to edit, or the training diverged.
    """
    program, host = examine(checkpoint).program, context.host
    asked = TrainingSettings.model_validate(
        {"alpha": settings.get("rank", 16), "responses": "own", **settings}
    )
    fit, held = (_lessons(host, program, calibration_set, split) for split in ("fit", "held"))
    edit = distil(
        host,
        program,
        fit,
        asked,
        work=context.work / "training",
        seed=context.seed,
        rows=digest_of_rows(context.fit),
        progress=context.progress,
    )
    with edited(host.model, edit):
        near = measured(host, held, batch_size=calibration_set.batch_size)
    return Distilled(
        edit=edit.bound_to(base),
        method=program.method,
        sha256=program.sha256,
        forget=near.forget,
        forget_rows=near.forget_rows,
        kept=near.kept,
        kept_rows=near.kept_rows,
        conversations=len(fit),
    )


def nearness(
    context: FitContext, calibration_set: CalibrationSet, checkpoint: Path, edit: WeightEdit
) -> Nearness:
    """How far an adapter lies from a checkpoint on the conversations that :func:`distilled` holds out.

    Raises:
        FitError: the adapter does not fit the base.
    """
    program, host = examine(checkpoint).program, context.host
    held = _lessons(host, program, calibration_set, "held")
    with edited(host.model, edit):
        found = measured(host, held, batch_size=calibration_set.batch_size)
    return Nearness(found.forget, found.forget_rows, found.kept, found.kept_rows)


def _lessons(
    host: ModelHost, program: SteeringProgram, calibration_set: CalibrationSet, split: str
) -> list[Lesson]:
    conversations = calibration_set.fit if split == "fit" else calibration_set.held
    found = answer(
        host,
        program,
        conversations,
        max_new_tokens=calibration_set.max_new_tokens,
        batch_size=calibration_set.batch_size,
        kept=calibration_set.kept.get(split),
    )
    return lessons(host, program, found.sequences, found.fired, batch_size=calibration_set.batch_size)
