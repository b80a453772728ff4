"""A loaded model steered in memory, or refused: whatever about it would not steer raises before it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from exporter.errors import CompileError, InputErrors
from exporter.pipeline.loaded_base import refuse_loaded
from exporter.pipeline.loaded_fingerprint import fingerprint_of
from steer_modules.attach import attach, detach
from steer_modules.program import SteeringProgram

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from exporter.fitted import Fitted

ModelT = TypeVar("ModelT", bound="PreTrainedModel")


def steer(model: ModelT, program: Fitted, *, allow_changed_base: bool = False) -> ModelT:
    """Steers a loaded model in place and returns it; :func:`unsteer` gives the base back.

    Args:
        allow_changed_base: take a model whose weights are not those that the program was fitted on, if the program's canary says on
            it what it said.

    Raises:
        InputErrors: the model cannot be steered as it is, or ``program`` is a weight edit.
        CompileError: the program was fitted on another model.
        ProgramError: the program is of another size, or was altered.
        RuntimeError: the installed Transformers calls such models in a way that the steering does not follow, or the canary
            says something else.
    """
    if not isinstance(program, SteeringProgram):
        raise InputErrors(
            f"steer with an edit of {program.method}",
            [
                "a weight edit does not steer; write it with compile(base, edit, out), or save it and load it with peft"
            ],
        )
    refuse_loaded(model)
    _refuse_other(model, program, allow_changed_base)
    steered: Any = attach(model, program)  # of a class that was made just now
    try:
        steered.check_steering()
        if allow_changed_base:
            steered.accept_changed_base()
    except BaseException:
        detach(model)
        raise
    return model


def unsteer(model: ModelT) -> ModelT:
    """Undoes :func:`steer`; returns the model, which is its base again.

    Raises:
        TypeError: it was not steered in memory.
    """
    if type(model).__module__ != attach.__module__:
        raise TypeError(
            f"this {type(model).__name__} was not steered in memory; give the model that steer(model, program) returned"
        )
    detach(model)
    return model


def _refuse_other(model: PreTrainedModel, program: SteeringProgram, changed: bool) -> None:
    found = {"architecture": type(model).__name__, "model_type": model.config.model_type}
    if not changed:
        found["fingerprint"] = fingerprint_of(model)
    wrong = [
        f"base.{key} is {getattr(program.base, key)}, but this model has {value}"
        for key, value in found.items()
        if getattr(program.base, key) != value
    ]
    if wrong:
        raise CompileError(
            f"the steering was fitted on another model: {'; '.join(wrong)}. Load that model, or fit the steering on this one"
        )
