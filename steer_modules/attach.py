"""Steers a model that is already loaded, with the same code as a shipped checkpoint; for fitting and trials."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel

from .fingerprint import forget, remember
from .program import SteeringProgram
from .sealing import unseal_inner
from .steered_model import SteeredGenerationMixin, SteeredModelMixin

_CLASSES: dict[type[PreTrainedModel], type[PreTrainedModel]] = {}


def _steered_class(stock: type[PreTrainedModel]) -> type[PreTrainedModel]:
    if stock not in _CLASSES:
        _CLASSES[stock] = _make(stock)
    return _CLASSES[stock]


def _make(stock: type[PreTrainedModel]) -> type[PreTrainedModel]:
    mixin = SteeredGenerationMixin if hasattr(stock, "generate") else SteeredModelMixin
    return type(f"Steered{stock.__name__}", (mixin, stock), {"__module__": __name__})


def attach(model: PreTrainedModel, program: SteeringProgram) -> PreTrainedModel:
    """Steers a loaded Transformers ``model`` in place and returns it. ``detach`` gives the base back.

    Raises:
        ProgramError: the program is not for a decoder of this size.
        RuntimeError: the model is steered already.
    """
    if isinstance(model, SteeredModelMixin):
        raise RuntimeError(f"this {type(model).__name__} is already steered; detach it first")
    stock = type(model)
    model.__class__ = _steered_class(stock)
    try:
        assert isinstance(model, SteeredModelMixin)
        shapes = {name: list(tensor.shape) for name, tensor in program.tensors().items()}
        model.install_steering(program.signed_section(), shapes)
        model.steering.load_program(program)
        model.steering.to(model.device)
        remember(model)
    except BaseException:
        _remove(model, stock)
        raise
    return model


def detach(model: PreTrainedModel) -> PreTrainedModel:
    """Undoes ``attach``."""
    _remove(model, type(model).__bases__[1])
    return model


@contextmanager
def steered(model: PreTrainedModel, program: SteeringProgram) -> Iterator[PreTrainedModel]:
    """Steers a model for the length of a ``with`` block; it is the base again afterwards."""
    attach(model, program)
    try:
        yield model
    finally:
        detach(model)


def _remove(model: PreTrainedModel, stock: type) -> None:
    for handle in getattr(model, "_steering_handles", ()):
        handle.remove()
    model.__dict__.pop("_steering_handles", None)
    unseal_inner(model)
    forget(model)
    model._modules.pop("steering", None)
    model.__class__ = stock
