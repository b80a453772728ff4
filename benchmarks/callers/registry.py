"""The callers by name: ``KIND: NAME``."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.callers.observed import Observed
from benchmarks.callers.side import Side

Caller = Callable[[Side], Observed]
CALLERS: dict[str, Caller] = {}
CORE: set[str] = set()
"""What ``make test`` runs on the installed Transformers: quick ones of every kind."""


def caller(kind: str, *, core: bool = True) -> Callable[[Caller], Caller]:
    """Adds a caller to the table under its function's name."""

    def add(function: Caller) -> Caller:
        name = f"{kind}: {function.__name__.replace('_', ' ')}"
        assert name not in CALLERS, name
        CALLERS[name] = function
        if core:
            CORE.add(name)
        return function

    return add


def known() -> dict[str, Caller]:
    """Every caller, in the order of the table."""
    from benchmarks.callers import altered, caching, generating, inner, loading, passes, tracing

    assert all((altered, caching, generating, inner, loading, passes, tracing))
    order = ("loading", "generating", "whole pass", "cached", "tracing", "inner", "files")
    return dict(sorted(CALLERS.items(), key=lambda item: order.index(item[0].partition(":")[0])))
