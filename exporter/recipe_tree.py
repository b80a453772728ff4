"""The YAML of a recipe as a tree of keys, and single keys that are set from outside. The only place where YAML is read."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from pathlib import Path

import yaml
from pydantic import BaseModel

from exporter.errors import InputErrors
from exporter.recipe_keys import valid_keys
from exporter.renamed import REPORT_SETTINGS, with_current_names


class _NoDuplicates(yaml.SafeLoader):
    """YAML keeps the last of two equal keys in silence; a recipe must not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(
                    None, None, "a list or a mapping cannot be a key", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} occurs twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_tree(path: Path) -> dict[str, object]:
    """The mapping that a recipe file holds; raises InputErrors where it holds none."""
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_NoDuplicates)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise InputErrors(str(path), [f"cannot be read: {error.strerror or error}"]) from None
    except UnicodeDecodeError:
        raise InputErrors(str(path), ["is not UTF-8 text; a recipe is a YAML file"]) from None
    except yaml.YAMLError as error:
        raise InputErrors(str(path), [f"is not YAML: {' '.join(str(error).split())}"]) from None
    except RecursionError:
        raise InputErrors(str(path), ["refers to itself, or is nested too deep"]) from None
    if not isinstance(tree, dict):
        raise InputErrors(str(path), [f"a recipe is a mapping of keys, this is {type(tree).__name__}"])
    try:
        null = _holds_null(tree)
    except RecursionError:
        raise InputErrors(str(path), ["refers to itself, or is nested too deep"]) from None
    if null:
        raise InputErrors(str(path), ["contains a null character (\\0) in a string; remove it"])
    try:
        return _with_current_keys(tree, str(path))
    except ValueError as error:
        raise InputErrors(str(path), [f"report: {error}"]) from None


def _with_current_keys(tree: dict[str, object], place: str) -> dict[str, object]:
    """The tree under the names that keys have today; raises ValueError where one stands under both names."""
    report = tree.get("report")
    if not isinstance(report, dict):
        return tree
    return {**tree, "report": with_current_names(report, REPORT_SETTINGS, f"{place}: report")}


def _holds_null(value: object) -> bool:
    """Whether a text within has a character that no path and no prompt may have."""
    if isinstance(value, dict):
        return any(_holds_null(one) for pair in value.items() for one in pair)
    if isinstance(value, list):
        return any(map(_holds_null, value))
    return isinstance(value, str) and "\0" in value


def override(tree: dict[str, object], text: str, schema: type[BaseModel]) -> Iterator[str]:
    """Set one key in ``tree`` by ``a.b=value``; yields what is wrong with that, if anything."""
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if keys[0] == "report" and len(keys) > 1:
        (keys[1],) = with_current_names({keys[1]: None}, REPORT_SETTINGS, f"--set {path.strip()}")
    if not equals or not all(keys):
        yield f"{text!r}: write key.path=value, for example report.max_new_tokens=32"
        return
    try:
        parsed = yaml.safe_load(value) if value.strip() else None
    except yaml.YAMLError as error:
        yield f"{path}: {value!r} is not a YAML value: {' '.join(str(error).split())}"
        return
    if _holds_null(parsed):
        yield f"{path}: contains a null character (\\0); remove it"
        return
    node = tree
    for depth, key in enumerate(keys):
        valid = valid_keys(schema, keys[:depth])
        if valid and key not in valid:
            yield f"{path}: unknown key {key!r} in {'.'.join(keys[:depth]) or 'a recipe'}; valid keys: {', '.join(valid)}"
            return
        if depth == len(keys) - 1:
            node[key] = parsed
            return
        below = node.setdefault(key, {})
        if below is None:
            below = node[key] = {}
        if not isinstance(below, dict):
            yield f"{path}: {'.'.join(keys[: depth + 1])} is a {type(below).__name__}, which has no keys to set"
            return
        node = below
