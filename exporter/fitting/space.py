"""What ``steerbake tune`` tries for the parameters of a method: declared beside each parameter, or derived from its constraints.

A field of a method's ``Params`` says by an annotation what is tried for it::

    layer: Annotated[int | None, Blocks()] = None
    strength: Annotated[float, Between(0.5, 1.0)] = Field(default=1.0, gt=0, le=1)

A field without one follows from its type: of a Literal every value is tried, of a bool both, of a number with two bounds what lies
between, of a list of Literals each value alone; a section is searched where it is there by default. Everything else stays at its default.
A key that a recipe sets is not searched: it stays as it is.
"""

from __future__ import annotations

import math
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

SEARCH = "search"
"""A value that asks a method to search by itself; a study never tries it."""


@dataclass(frozen=True)
class Among:
    """One of some values: None, true or false, numbers, texts, or ``{}`` for a section, whose own keys are then searched."""

    values: tuple[object, ...]


@dataclass(frozen=True)
class Between:
    """A number from ``low`` to ``high``, both included; ``log``: even on a logarithmic scale."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Blocks:
    """A block of the decoder, between two fractions of the depth; at most so many, evenly spread.

    Attributes:
        ends: whether only states at the ends of prompts are read there, which a search of gates collects at every block anyway.
    """

    first: float = 0.0
    last: float = 1.0
    most: int = 12
    ends: bool = False

    def of(self, count: int) -> Among:
        """The blocks of a decoder of so many; one at least."""
        low = min(math.floor(self.first * count), count - 1)
        high = max(math.ceil(self.last * count) - 1, low)
        step = (high - low) / max(self.most - 1, 1)
        every = high - low + 1 <= self.most
        return Among(tuple(range(low, high + 1) if every else _rounded(low, step, self.most)))


@dataclass(frozen=True)
class Fixed:
    """Not searched: a number of rows, which costs time and decides little, or what a user alone can know.

    A section is as it is by default; where a recipe gives it, its keys are searched.
    """


Searched = Among | Between | Blocks | Fixed


class Suggest(Protocol):
    """Who chooses: a study, or a test."""

    def choice(self, key: str, values: Sequence[object]) -> object: ...

    def number_between(self, key: str, low: float, high: float, *, log: bool) -> float: ...


def sampled(
    schema: type[BaseModel], given: Mapping[str, object], blocks: int, suggest: Suggest, under: str = ""
) -> dict[str, object]:
    """Parameters for one trial, as a recipe would hold them.

    Args:
        given: those that the recipe sets, which stay.
        blocks: of the decoder.
        under: the path of a section, with its dot.
    """
    found = dict(given)
    for name, field in schema.model_fields.items():
        key, how = under + name, searched(field, blocks)
        if name not in given and not isinstance(how, Fixed):
            found[name] = _chosen(key, how, field, suggest)
        section = _section(field)
        if section is not None and (below := _below(name, field, found)) is not None:
            found[name] = sampled(section, below, blocks, suggest, f"{key}.")
    return found


def searched(field: FieldInfo, blocks: int) -> Among | Between | Fixed:
    """What is tried for a field of a decoder of so many blocks."""
    declared = _declared(field)
    if declared is None:
        return _derived(field)
    return declared.of(blocks) if isinstance(declared, Blocks) else declared


def kept_layers(
    schema: type[BaseModel], given: Mapping[str, object], blocks: int, *, ends: bool
) -> tuple[int, ...]:
    """Every block that a trial may name, whose states are collected in one pass.

    Args:
        ends: also those of which only states at the ends of prompts are read.
    """
    found: set[int] = set()
    for name, field in schema.model_fields.items():
        if isinstance(declared := _declared(field), Blocks) and (ends or not declared.ends):
            value = given.get(name, declared.of(blocks).values)
            found.update(
                one for one in (value if isinstance(value, list | tuple) else [value]) if type(one) is int
            )
        section, may_be = _section(field), {name: {}, **given} if isinstance(declared, Among) else given
        if section is not None and (below := _below(name, field, may_be)) is not None:
            found.update(kept_layers(section, below, blocks, ends=ends))
    return tuple(sorted(found))


def described(
    schema: type[BaseModel], given: Mapping[str, object], blocks: int, under: str = ""
) -> Iterator[tuple[str, str]]:
    """(path, what is tried for it) of everything that is searched."""
    for name, field in schema.model_fields.items():
        key, how = under + name, searched(field, blocks)
        if name not in given and isinstance(how, Among):
            yield key, ", ".join(map(label, how.values))
        elif name not in given and isinstance(how, Between):
            yield key, f"{how.low:g} to {how.high:g}{', logarithmic' if how.log else ''}"
        section, may_be = _section(field), {name: {}, **given} if isinstance(how, Among) else given
        if section is not None and (below := _below(name, field, may_be)) is not None:
            yield from described(section, below, blocks, f"{key}.")


def label(value: object) -> str:
    """A value in one word, for a study's store and for readers."""
    return "section" if value == {} else "none" if value is None else str(value)


def _rounded(low: int, step: float, count: int) -> list[int]:
    return sorted({round(low + step * place) for place in range(count)})


def _chosen(key: str, how: Among | Between | Fixed, field: FieldInfo, suggest: Suggest) -> object:
    assert not isinstance(how, Fixed)
    value: object
    if isinstance(how, Among):
        value = suggest.choice(key, how.values)
    else:
        value = suggest.number_between(key, how.low, how.high, log=how.log)
    return [value] if _is_list(field.annotation) else value


def _derived(field: FieldInfo) -> Among | Between | Fixed:
    """What a field's type and bounds say."""
    annotation = field.annotation
    inner = get_args(annotation)[0] if _is_list(annotation) else annotation
    if get_origin(inner) is Literal:
        values = tuple(one for one in get_args(inner) if one != SEARCH)
        return Among(values) if len(values) > 1 else Fixed()
    if inner is bool:
        return Among((False, True))
    if inner is float and not _is_list(annotation):
        return _bounded(field.metadata)
    return Fixed()


def _bounded(metadata: Sequence[object]) -> Between | Fixed:
    """Between both bounds of a number; an end that is not allowed is left out by a twentieth of the way."""
    bounds = {
        name: float(getattr(one, name))
        for one in metadata
        for name in ("gt", "ge", "lt", "le")
        if hasattr(one, name)
    }
    low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))
    if low is None or high is None:
        return Fixed()
    margin = (high - low) / 20
    return Between(low if "ge" in bounds else low + margin, high if "le" in bounds else high - margin)


def _members(annotation: object) -> tuple[object, ...]:
    """The parts of a union; the annotation itself where it is none."""
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(part for one in get_args(annotation) for part in _members(one))
    return (annotation,)


def _is_list(annotation: object) -> bool:
    return any(get_origin(one) in (list, tuple) for one in _members(annotation))


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a section, where a field is one."""
    kinds = [
        one for one in _members(field.annotation) if isinstance(one, type) and issubclass(one, BaseModel)
    ]
    return kinds[0] if kinds else None


def _below(name: str, field: FieldInfo, given: Mapping[str, object]) -> Mapping[str, object] | None:
    """The keys that are set of a section; None for one that is not there, or is fixed and not given."""
    if isinstance(_declared(field), Fixed) and name not in given:
        return None
    value = given.get(name, field.get_default(call_default_factory=True))
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_unset=True)
    assert value is None or isinstance(value, Mapping), name
    return value


def _declared(field: FieldInfo) -> Searched | None:
    return next((one for one in field.metadata if isinstance(one, Searched)), None)
