"""The exporter's list of operators, made once per process: it parses the source of some hundred functions for every graph it traces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from torch.onnx._internal.exporter import _registration

_PLACE, _NAME = "onnxscript_apis", "get_torchlib_ops"


@contextmanager
def operators_listed_once() -> Iterator[None]:
    """Keeps the list between traces; without effect on a torch that keeps it elsewhere."""
    place: Any = getattr(_registration, _PLACE, None)
    listed: Callable[[], Any] | None = getattr(place, _NAME, None)
    if listed is None:
        yield
        return
    setattr(place, _NAME, lambda: _operators(listed))
    try:
        yield
    finally:
        setattr(place, _NAME, listed)


@cache
def _operators(listed: Callable[[], Any]) -> tuple[Any, ...]:
    return tuple(listed())
