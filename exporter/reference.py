"""docs/reference.md: every key of a recipe, of a method's parameters and of a row, out of the models that read them.

    python -m exporter.reference docs/reference.md   # write it anew; without a file it is printed

What a key means is the text under it in the source.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from exporter import registry
from exporter.recipe import Recipe
from exporter.registry import METHODS, READERS, resolve
from exporter.types import Row, Turn

HEAD = """# Reference

Every key of recipes, methods and rows. This file is generated (`make reference`) from the models that read them; an
unknown key is an error. Any recipe key can be set from outside: `steerbake run RECIPE --set report.max_new_tokens=32`.
`steerbake check-recipe RECIPE` lists every problem of a recipe, its base and its rows before a model is loaded.
"""
ROWS = """## Rows

One row is an object on a line of a `.jsonl` file, or one of a list in a `.json` file, a line of a table (`.csv`, `.tsv`, with a header) or a
record of a `.parquet` file. Files are UTF-8. In a table, an empty cell is a missing key, lists (`secrets`, `paraphrases`) are split
at `|` or written as JSON or Python prints them (`['Paris', 'France']`), and there is no `history`. Any other cell in brackets is refused where a
list belongs: as one text it would be a secret that no reply contains:

    question,answer,role,secrets
    What is the capital of France?,"Paris, of course.",forget,Paris|paris
    What is the capital of Japan?,Tokyo.,retain,

`role` may be omitted if the source has one. Public schemas are read by `format`: {formats}.
"""
METRICS = """## Metrics

Every metric of the registry, of a [report](report.md), of a verification and of [`steerbake evaluate`](evaluate.md). An installed package adds one by an entry point
of the group `steerbake.metrics`. Those that need more than replies are measured where that is available.
"""
_NAMES = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Path: "path",
    object: "anything",
    type(None): "null",
}
_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def reference() -> str:
    """The whole page."""
    parts = [HEAD, "## Recipe\n", *_model(Recipe, "")]
    schemas: dict[str, type[BaseModel]] = {name: resolve(METHODS, "method", name).Params for name in METHODS}
    roots = {name: _root(schema) for name, schema in schemas.items()}
    for name, place in METHODS.items():
        root = roots[name]
        users = [other for other in METHODS if roots[other] is root]
        parts += [
            f"## Parameters of `{name}`\n",
            f"Under `methods.params.{name}` ({place.partition(':')[0]}).\n",
        ]
        if users[0] != name:
            parts.append(f"Those of `{users[0]}`" + (", and:\n" if _own(schemas[name], root) else ".\n"))
        if users[0] == name or _own(schemas[name], root):
            own = _own(schemas[name], root)
            without = () if users[0] == name else tuple(set(root.model_fields) - own)
            parts += _model(schemas[name], f"methods.params.{name}", without)
    formats = ", ".join(f"`{name}`" for name in READERS)
    return (
        "\n".join(
            [
                *parts,
                ROWS.replace("{formats}", formats),
                *_record(Row),
                "### history[]\n",
                *_record(Turn),
                METRICS,
                _metrics(),
            ]
        ).rstrip()
        + "\n"
    )


def _metrics() -> str:
    """A table of the registry's own metrics, in its order."""
    lines = [("metric", "counted over", "good", "what", "unit", "needs"), ("---",) * 6]
    for name in registry.METRICS:
        one = registry.metric(name)
        good = {"lower": "low", "higher": "high"}.get(one.better or "", "")
        lines.append((f"`{name}`", one.about, good, one.words.says, one.unit, ", ".join(sorted(one.needs))))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _root(schema: type[BaseModel]) -> type[BaseModel]:
    """The schema from which a method's parameters are derived: methods that have one in common are described by what they add."""
    bases = [one for one in schema.__mro__ if issubclass(one, BaseModel) and one.model_fields]
    return bases[-1]


def _own(schema: type[BaseModel], root: type[BaseModel]) -> set[str]:
    """Keys that the root lacks, or has with another default."""
    known = root.model_fields
    return {
        name
        for name, field in schema.model_fields.items()
        if name not in known or _default(field) != _default(known[name])
    }


def _model(schema: type[BaseModel], place: str, without: Sequence[str] = ()) -> Iterator[str]:
    """A table of one model's keys, and then the models below it.

    Args:
        without: keys that stand elsewhere.
    """
    meanings = {name: field.description or "" for name, field in schema.model_fields.items()}
    for one in schema.__mro__:
        meanings |= meanings_of(one) if one.__module__.startswith("exporter.") else {}
    yield _table(
        (f"`{name}`", _limited(field), _default(field), meanings.get(name, ""))
        for name, field in schema.model_fields.items()
        if name not in without
    )
    places: dict[type[BaseModel], list[str]] = {}
    for name, field in schema.model_fields.items():
        for inner, many in _models_in(field.annotation):
            places.setdefault(inner, []).append(f"{place}.{name}".lstrip(".") + ("[]" if many else ""))
    for inner, below in places.items():
        yield f"### {', '.join(below)}\n"
        yield _prose(inner) + "\n"
        yield from _model(inner, below[0])


def _record(kind: type[Any]) -> Iterator[str]:
    """A table of one dataclass's keys."""
    meanings, hints = meanings_of(kind), get_type_hints(kind, include_extras=True)
    bare = kind is Row
    yield _table(
        (
            f"`{field.name}`",
            _type(hints[field.name]),
            _default_of(field, optional=bare and field.name == "id"),
            meanings[field.name],
        )
        for field in dataclasses.fields(kind)
    )


def _table(lines: Iterator[tuple[str, str, str, str]]) -> str:
    rows = [("key", "type", "default", "meaning"), ("---",) * 4, *lines]
    return (
        "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows) + "\n"
    )


def meanings_of(kind: type[object]) -> dict[str, str]:
    """The texts that stand under the attributes of a class in its source, by name; none of a class that was made at run time."""
    try:
        source = inspect.getsource(kind)
    except OSError:
        return {}
    (tree,) = ast.parse(textwrap.dedent(source)).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for first, second in zip(tree.body, tree.body[1:], strict=False):
        match first, second:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split()).replace("``", "`")
    return found


def _prose(kind: type[object]) -> str:
    return " ".join((inspect.getdoc(kind) or "").split()).replace("``", "`")


def _models_in(annotation: object) -> Iterator[tuple[type[BaseModel], bool]]:
    """(model, whether it stands in a list) for every model within an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, False
    many = get_origin(annotation) in (list, tuple)
    for one in get_args(annotation) if get_origin(annotation) is not Literal else ():
        yield from ((model, many or inside) for model, inside in _models_in(one))


def _type(annotation: Any) -> str:
    """An annotation in the words of YAML."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(inner[0])
    if origin is Literal:
        return ("one of " if len(inner) > 1 else "") + ", ".join(f"`{one}`" for one in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(one) for one in inner))
    if origin in (list, tuple):
        return f"list of {_type(inner[0])}"
    if origin in (dict, Mapping):
        return f"mapping to {_type(inner[1])}"
    return _NAMES.get(annotation, "section" if inspect.isclass(annotation) else str(annotation))


def _limited(field: FieldInfo) -> str:
    """A field's type with its bounds."""
    bounds = [
        f"{sign} {getattr(one, name):g}"
        for one in field.metadata
        for name, sign in _BOUNDS.items()
        if hasattr(one, name)
    ]
    return _type(field.annotation) + (f" {', '.join(bounds)}" if bounds else "")


def _default(field: FieldInfo) -> str:
    return "required" if field.is_required() else _shown(field.get_default(call_default_factory=True))


def _default_of(field: dataclasses.Field[object], *, optional: bool) -> str:
    if field.default is not dataclasses.MISSING:
        return _shown(field.default)
    return "" if optional else "required"


def _shown(value: object) -> str:
    if value is None or value in ("", [], (), {}):
        return ""
    if isinstance(value, BaseModel):
        return "see below"
    if isinstance(value, list | tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def main() -> None:
    """Write the page to the file that is named, else print it."""
    if sys.argv[1:]:
        Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
    else:
        print(reference(), end="")  # noqa: T201


if __name__ == "__main__":
    main()
