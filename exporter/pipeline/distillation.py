"""A steered checkpoint's pupil: what the checkpoint says on the calibration set of a recipe, learned by an adapter of the base."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from exporter.errors import FitError
from exporter.inspection import examine
from exporter.splits import digest_of_rows
from exporter.targets.answers import answer
from exporter.targets.values import CalibrationSet, Distilled, Nearness
from exporter.training.distil import METHOD, Divergence, Lesson, distil, lessons, measured
from exporter.training.factors import edit_of
from exporter.training.lora import edited
from exporter.training.precision import in_bfloat16
from exporter.training.reply_columns import reply_columns
from exporter.training.settings import TrainingSettings
from exporter.training.switched import switched
from exporter.weight_edit import WeightEdit

if TYPE_CHECKING:
    from exporter.fitting.context import FitContext
    from exporter.host import ModelHost
    from exporter.weight_edit import EditedBase
    from steer_modules.program import SteeringProgram

LOG = logging.getLogger(__name__)
ENOUGH = 0.9
"""Share of held replies of either kind that are the checkpoint's, from which on no other form is tried."""

NEARER = 0.5
"""Share of the base's divergence from the checkpoint, where a gate is on, beyond which an adapter is refused."""


class Pupil(NamedTuple):
    """An adapter, the form that it has, and how far it lies from its teacher on held conversations."""

    form: str
    edit: WeightEdit
    near: Divergence


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
        FitError: the model has no layer to edit, the training diverged, or the adapter does not say what the checkpoint says.
    """
    program, host = examine(checkpoint).program, context.host
    form = settings.get("form", "auto")
    asked = TrainingSettings.model_validate(
        {
            "alpha": settings.get("rank", 16),
            "responses": "own",
            **{key: value for key, value in settings.items() if key != "form"},
        }
    )
    size = calibration_set.batch_size
    fit, held = (_lessons(host, program, calibration_set, split) for split in ("fit", "held"))
    refuse_one_sided(fit, "learn from")
    refuse_one_sided(held, "measure an adapter on")
    names = tuple(FORMS) if form == "auto" else (str(form),)
    best = chosen(names, lambda name: FORMS[name](context, program, fit, asked, size), host, held, size)
    return Distilled(
        edit=best.edit.bound_to(base),
        method=program.method,
        sha256=program.sha256,
        **asdict(best.near),
        conversations=len(fit),
        form=best.form,
    )


def chosen(
    names: Sequence[str],
    make: Callable[[str], WeightEdit | None],
    host: ModelHost,
    held: Sequence[Lesson],
    batch_size: int,
) -> Pupil:
    """The adapter of these forms that says most of the held replies; the first that says enough ends the search.

    Args:
        make: an adapter of a form, or None where the model has none of it.

    Raises:
        FitError: there is none, or it lies about as far from the checkpoint as the base that it was to change: it would answer as before.
    """
    best: Pupil | None = None
    for name in names:
        edit = make(name)
        if edit is None:
            continue
        with edited(host.model, edit):
            near = measured(host, held, batch_size=batch_size)
        LOG.info(
            "--form %s: of held replies the checkpoint's are %.3f where a gate is on, %.3f elsewhere",
            name,
            near.forget_same,
            near.kept_same,
        )
        if best is None or near.same > best.near.same:
            best = Pupil(name, edit, near)
        if best.near.same >= ENOUGH:
            break
    if best is None:
        raise FitError(
            f"the last block of {host.architecture} has no gated MLP without biases, or --rank is below the 2 that a neuron needs; "
            "export it with --form trained"
        )
    base = measured(host, [one for one in held if one.fired], batch_size=batch_size).forget
    if not best.near.forget < NEARER * base:
        raise FitError(
            f"the adapter (--form {best.form}) does not say what the checkpoint says where its gate is on: {best.near.forget:.3g} nats a token from it, "
            f"the base {base:.3g}; raise --rank or --epochs, try the other --form, or publish the checkpoint itself"
        )
    return best


def refuse_one_sided(some: Sequence[Lesson], use: str) -> None:
    """Raises FitError where a gate of the checkpoint is on in none of some conversations, or in all of them: one side has nothing to ``use`` then."""
    fired = sum(one.fired for one in some)
    for count, where, roles in (
        (fired, "a gate of the checkpoint is on in none", "forget"),
        (len(some) - fired, "a gate of the checkpoint is on in all", "retain"),
    ):
        if not count:
            raise FitError(
                f"{where} of {len(some)} conversations to {use}; give the recipe more rows of role {roles} to fit and to calibrate on, "
                "or see by `steerbake chat` when the checkpoint's gates are on"
            )


def _switched(
    context: FitContext,
    program: SteeringProgram,
    fit: Sequence[Lesson],
    asked: TrainingSettings,
    batch_size: int,
) -> WeightEdit | None:
    """Neurons of the last block made into switches; None where it has none of that kind."""
    host = context.host
    bfloat16 = in_bfloat16(asked.precision, host.device)
    columns = reply_columns(host, fit, batch_size=batch_size, bfloat16=bfloat16)
    if columns is None:
        return None
    factors = switched(host, columns, rank=asked.rank, seed=context.seed, bfloat16=bfloat16)
    if factors is None:
        return None
    assert program.base.fingerprint is not None, "of a checkpoint"
    return edit_of(context, METHOD, factors).with_fingerprint(program.base.fingerprint)


def _trained(
    context: FitContext,
    program: SteeringProgram,
    fit: Sequence[Lesson],
    asked: TrainingSettings,
    batch_size: int,
) -> WeightEdit | None:
    """All linear layers by gradient descent."""
    del batch_size
    return distil(
        context.host,
        program,
        fit,
        asked,
        work=context.work / "training",
        seed=context.seed,
        rows=digest_of_rows(context.fit),
        progress=context.progress,
    )


FORMS = {"switched": _switched, "trained": _trained}
"""How an adapter is made, the cheaper one first."""


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
    whole = [one.answered for one in conversations]
    return lessons(host, program, found.sequences, found.fired, whole, batch_size=calibration_set.batch_size)
