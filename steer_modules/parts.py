"""What the modules of a model compute with beside tensors and config: their classes, the numbers they hold and the functions they call.

A module copies settings out of the config when it is built (the epsilon of a norm, the scaling of attention), so a copy that is changed in memory is
neither another tensor nor another config, and moves the states that gates read all the same.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

_PLAIN = (bool, int, float, complex, str, type(None))
_CALLED = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, functools.partial)
_OF_A_RUN = frozenset({"gradient_checkpointing", "max_seq_len_cached", "name_or_path", "training"})
"""Attributes that a run may set without another result; private ones, and those of dropout, are none either."""

Part = tuple[type, Mapping[str, object]]
"""A module's class, and its own numbers, words and functions by name."""


def parts(module: nn.Module, *, without: str = "") -> dict[str, Part]:
    """Every module inside, and itself, by name.

    Args:
        without: the name of a part that is left out.
    """
    return {
        name: (type(part), dict(_held(part)))
        for name, part in module.named_modules()
        if not (without and (name == without or name.startswith(f"{without}.")))
    }


def other_part(before: Mapping[str, Part], now: Mapping[str, Part]) -> str | None:
    """What of some modules is another than before, by its full name; None where all is the same.

    An attribute that was added says nothing unless it is the module's ``forward``: nobody reads it but who added it.
    """
    if before.keys() != now.keys():
        return min(before.keys() ^ now.keys())
    for name, (kind, held) in before.items():
        found_kind, found = now[name]
        if kind is not found_kind:
            return name or kind.__name__
        names = {*held, *({"forward"} & found.keys())}
        for key in sorted(names):
            if not _same(held.get(key), found.get(key)):
                return f"{name}.{key}" if name else key
    return None


def _held(part: nn.Module) -> Iterator[tuple[str, object]]:
    for key, value in vars(part).items():
        if key == "forward":
            if (called := _called(value)) != types.MethodType(type(part).forward, part):
                yield key, called
        elif isinstance(value, (*_PLAIN, *_CALLED)) and not _of_a_run(part, key):
            yield key, value


def _of_a_run(part: nn.Module, key: str) -> bool:
    dropout = "drop" in key or isinstance(part, nn.modules.dropout._DropoutNd)
    return dropout or key.startswith("_") or key in _OF_A_RUN


def _called(function: Any) -> Callable[..., Any]:
    """What ``torch.compile`` has compiled, where it has: it computes the same."""
    while (inner := getattr(function, "_torchdynamo_orig_callable", None)) is not None:
        function = inner
    found: Callable[..., Any] = function
    return found


def _same(before: object, now: object) -> bool:
    """Whether two values are one; a place that held nothing may hold a tensor later (positions that a model keeps between passes), which is not listed."""
    if isinstance(before, float) and isinstance(now, float):
        return repr(before) == repr(now)  # also of what is no number
    return before is now or (type(before) is type(now) and before == now)
