"""Model outputs with the further field ``steering_gate``: a real ModelOutput subclass per stock output class."""

from __future__ import annotations

from dataclasses import field, fields, make_dataclass

from torch import Tensor
from transformers.utils.generic import ModelOutput

_CLASSES: dict[type[ModelOutput], type[ModelOutput]] = {}


def gated_class(stock: type[ModelOutput]) -> type[ModelOutput]:
    """Subclass of a ModelOutput class with the declared field ``steering_gate``, float32 [B, T, G]."""
    if stock not in _CLASSES:
        _CLASSES[stock] = _make(stock)
    return _CLASSES[stock]


def _make(stock: type[ModelOutput]) -> type[ModelOutput]:
    return make_dataclass(
        f"Steered{stock.__name__}",
        [("steering_gate", Tensor | None, field(default=None))],
        bases=(stock,),
        namespace={"__module__": __name__, "__doc__": stock.__doc__},
    )


def with_gate(outputs: ModelOutput, gate: Tensor) -> ModelOutput:
    """The same output, as the subclass that also bears the gates at every column."""
    values = {f.name: getattr(outputs, f.name) for f in fields(outputs)}  # type: ignore[arg-type]
    return gated_class(type(outputs))(**values, steering_gate=gate)
