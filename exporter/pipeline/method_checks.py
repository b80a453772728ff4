"""A method's parameters held to the sizes of a model and to the rows there are, before anything is fitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from pydantic import ValidationError

from exporter import registry
from exporter.fitting.calibrate import SCORES
from exporter.splits import Splits
from exporter.types import Role, Row

KEPT: tuple[Role, ...] = ("retain", "reasoning")


def parameter_problems(
    name: str, given: Mapping[str, object], where: str, layers: int | None, width: int | None
) -> Iterator[str]:
    """Layers and ranks that the model does not have, and what the method says of the rest; parameters of another schema are told elsewhere.

    Args:
        where: the key that a problem begins with.
        layers: of the model; None where it is not known.
        width: the model's hidden size.
    """
    yield from _beyond(given, where, layers, width)
    method = registry.resolve(registry.METHODS, "method", name)
    try:
        params = method.Params.model_validate(given)
    except ValidationError:
        return
    if layers is not None and hasattr(method, "objections"):
        yield from (f"{where}.{line}" for line in method.objections(params, layers))


class Shots(NamedTuple):
    """That there are too few rows to refuse for a refusal to be read behind; ``needed``: the method cannot go on without."""

    message: str
    needed: bool


def too_few_shots(name: str, given: Mapping[str, object], fit: Sequence[Row]) -> Shots | None:
    """Refusals that are read behind a few refused questions need so many of them; None where there are enough."""
    there = sum(row.role == "forget" and not row.history and row.prefix is None for row in fit)
    params = registry.resolve(registry.METHODS, "method", name).Params.model_validate(given)
    source, shots = getattr(params, "refusal_source", "unknown"), getattr(params, "shots", 0)
    if source == "unknown" or there > shots:
        return None
    message = f"{name} reads refusals after {shots} refused questions, which needs {shots + 1} forget rows in data.fit; it has {there}"
    return Shots(message, source == "few_shot")


def searches_blindly(name: str, given: Mapping[str, object], splits: Splits) -> str | None:
    """What a weight edit cannot search without a calibration row to keep (:func:`exporter.training.search.cheapest_edit`); None where it can."""
    method = registry.resolve(registry.METHODS, "method", name)
    searched = [key for key, value in method.Params.model_validate(given) if value == "search"]
    if method.yields != "edit" or not searched or any(row.role in KEPT for row in splits.calibrate):
        return None
    keys = " and ".join(f"methods.params.{name}.{key}" for key in searched)
    return (
        f"data.calibrate: no row of role {' or '.join(KEPT)}, and {name} would search what forgets most, whatever it breaks; add some, or set "
        f"a value of {keys}"
    )


def _beyond(params: object, where: str, layers: int | None, width: int | None) -> Iterator[str]:
    """Layers that the model does not have and ranks above its width, at any depth of a method's parameters."""
    if not isinstance(params, Mapping):
        return
    for key, value in params.items():
        yield from _beyond(value, f"{where}.{key}", layers, width)
        given = [one for one in (value if isinstance(value, list | tuple) else [value]) if type(one) is int]
        if key in ("layer", "layers", "scoring_layer") and layers is not None:
            for one in given:
                if not 0 <= one < layers:
                    yield f"{where}.{key}: the model has layers 0 to {layers - 1}, received {one}"
        if key == "scores" and (unknown := sorted({*map(str, value)} - {*SCORES})):
            yield f"{where}.{key}: unknown score {', '.join(unknown)}; valid scores: {', '.join(SCORES)}"
        if key == "rank" and width is not None:
            for one in given:
                if one > width:
                    yield f"{where}.{key}: a rank is at most the model's hidden size {width}, received {one}"
