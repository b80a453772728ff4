"""Model outputs with the further field ``steering_gate``: a real ModelOutput subclass per stock output class."""

from __future__ import annotations

from dataclasses import field, fields, make_dataclass
from typing import Any

from torch import Tensor

_CLASSES: dict[Any, Any] = {}


def gated_class(stock: Any) -> Any:
    """Subclass of a ModelOutput class with the declared field ``steering_gate``, float32 [B, T, G]."""
    if stock not in _CLASSES:
        _CLASSES[stock] = _make(stock)
    return _CLASSES[stock]


def _make(stock: Any) -> Any:
    return make_dataclass(
        f"Steered{stock.__name__}",
        [("steering_gate", Tensor | None, field(default=None))],
        bases=(stock,),
        namespace={"__module__": __name__, "__doc__": stock.__doc__},
    )


def with_gate(outputs: Any, gate: Tensor) -> Any:
    """The same output, as the subclass that also bears the gates at every column."""
    values = {f.name: getattr(outputs, f.name) for f in fields(outputs)}
    return gated_class(type(outputs))(**values, steering_gate=gate)
