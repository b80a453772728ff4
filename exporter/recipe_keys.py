"""Which keys a schema knows at a path, and how an error of pydantic reads as one line with that path."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails


def valid_keys(schema: type[BaseModel], path: Sequence[str | int]) -> tuple[str, ...]:
    """The keys that may stand at ``path`` below ``schema``; empty where any may, or where the path leads nowhere."""
    annotation: object = schema
    for key in path:
        model = _model_in(annotation)
        if model is None:
            annotation = _inside(annotation)
        elif isinstance(key, str) and key in model.model_fields:
            annotation = model.model_fields[key].annotation
        else:
            return ()
    model = _model_in(annotation)
    return tuple(model.model_fields) if model is not None else ()


def described(error: ErrorDetails, schema: type[BaseModel], prefix: Sequence[str] = ()) -> str:
    """One line for one error found under ``schema``, whose own place in the file is ``prefix``."""
    where = ".".join(map(str, [*prefix, *error["loc"]])) or "recipe"
    if error["type"] == "extra_forbidden":
        keys = valid_keys(schema, error["loc"][:-1])
        return f"{where}: unknown key; valid keys here: {', '.join(keys) or 'none'}"
    if error["type"] == "missing":
        return f"{where}: this key is required"
    message = f"{where}: {error['msg'][0].lower()}{error['msg'][1:]}"
    if isinstance(error["input"], Mapping):
        return message
    shown = repr(error["input"])
    return f"{message}, received {shown if len(shown) < 60 else shown[:57] + '...'}"


def _model_in(annotation: object) -> type[BaseModel] | None:
    if get_origin(annotation) is None and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Annotated, typing.Union, types.UnionType):
        return next((model for model in map(_model_in, get_args(annotation)) if model is not None), None)
    return None


def _inside(annotation: object) -> object:
    """What a list or a mapping holds, also where it may be None."""
    if get_origin(annotation) in (list, dict):
        return get_args(annotation)[-1]
    return next((_inside(one) for one in get_args(annotation) if get_origin(one) in (list, dict)), None)
