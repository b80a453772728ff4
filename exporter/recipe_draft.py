"""A recipe that the schema refuses, as far as it is sound: so that rows and base are looked at all the same, and all is told at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from exporter.errors import InputErrors
from exporter.recipe import (
    NAME,
    BaseModelSource,
    ChatSettings,
    Data,
    Methods,
    Recipe,
    Refusals,
    ReportSettings,
    Source,
    SourceLike,
)
from exporter.recipe_publish import Publish
from exporter.recipe_tree import override, read_tree

Section = TypeVar("Section", bound=BaseModel)
SECTIONS: dict[str, type[BaseModel]] = {
    "chat": ChatSettings,
    "refusals": Refusals,
    "methods": Methods,
    "report": ReportSettings,
    "publish": Publish,
}


def draft(path: Path, overrides: Sequence[str] = ()) -> Recipe | None:
    """The sound sections of a recipe, those that are not at their defaults; ``base`` is None where it is not.

    None where not even a YAML mapping is there. What a draft lacks was told when it was refused.
    """
    try:
        tree = read_tree(path)
    except InputErrors:
        return None
    if [problem for text in overrides for problem in override(tree, text, Recipe)]:
        return None
    folder = path.resolve().parent
    found: dict[str, Any] = {name: _section(schema, tree.get(name)) for name, schema in SECTIONS.items()}
    found["methods"] = _known(found["methods"] or Methods())
    for name in ("chat", "refusals", "report"):
        found[name] = found[name] or SECTIONS[name]()
    seed = tree.get("seed", 0)
    called = tree.get("name")
    found["name"] = called if isinstance(called, str) and re.fullmatch(NAME, called) else "recipe"
    found["base"] = _base(tree.get("base"), folder)
    found["data"] = _data(tree.get("data"), folder)
    found["seed"] = seed if isinstance(seed, int) else 0
    recipe = Recipe.model_construct(**found)
    recipe._folder, recipe._file = folder, path.resolve()
    return recipe


def _section(schema: type[Section], value: object) -> Section | None:
    try:
        return schema.model_validate(value)
    except ValidationError:
        return None


def _known(methods: Methods) -> Methods:
    from exporter.registry import METHODS, resolve

    sound = {
        name: params
        for name, params in methods.params.items()
        if name in METHODS and _section(resolve(METHODS, "method", name).Params, params) is not None
    }
    names = [name for name in methods.names if name in METHODS] or [Methods().default]
    return Methods(default=names[0], compare=names[1:], params=sound)


def _base(value: object, folder: Path) -> BaseModelSource | None:
    base = _section(BaseModelSource, value)
    if base is None or (base.path is None) == (base.repo is None):
        return None
    there = base.path is None or (folder / Path(base.path).expanduser()).is_dir()
    return base if there else None


def _data(value: object, folder: Path) -> Data:
    given = value if isinstance(value, dict) else {}
    parts = {part: list(_sources(given.get(part), folder)) for part in ("fit", "calibrate", "test")}
    fraction = given.get("calibrate_fraction", 0.3)
    return Data.model_construct(
        fit=parts["fit"],
        calibrate=parts["calibrate"] if given.get("calibrate") else None,
        calibrate_fraction=fraction if isinstance(fraction, float) and 0 < fraction < 1 else 0.3,
        test=parts["test"],
    )


def _sources(value: object, folder: Path) -> Iterator[Source]:
    adapter: TypeAdapter[Source] = TypeAdapter(SourceLike)
    for one in value if isinstance(value, list) else []:
        try:
            source = adapter.validate_python(one)
        except ValidationError:
            continue
        there = source.path is not None and (folder / Path(source.path).expanduser()).exists()
        if there or (source.path is None and source.dataset is not None):
            yield source
