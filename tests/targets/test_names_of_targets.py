"""No file outside a target's own names it: what is done for one is done for all, through the contract."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter import registry
from exporter.targets.base import AnyTarget

HOME = Path(__file__).resolve().parents[2]
EVERY = tuple(registry.TARGETS)
OWN = {
    "onnx": {"exporter/onnx_graph.py", "exporter/targets/onnx_runner.py"},
    "adapter": {"exporter/weight_edit.py", "exporter/publish/metadata.py"},  # there it is a word of the Hub
    "lora": {"exporter/publish/metadata.py"},
    "checkpoint": {"exporter/targets/checkpoint.py", "exporter/targets/checkpoint_target.py"},
}
"""A target's files outside its folder: runners look for the first by its name."""
OTHER_SENSE = {
    "stock": re.compile("_?stock(_classes|_config|_of)?"),
    "adapter": re.compile(".*"),
    "lora": re.compile(".*"),
}
"""Names in which the word is about Transformers' own classes, or about the LoRA adapters of peft."""


def mentions(text: str, target: AnyTarget) -> Iterator[str]:
    """Where a source names a target: its name or marker as a text, a module of its folder, or a name made of it."""
    tree = ast.parse(text)
    prose = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in prose:
            if node.value in (target.name, target.marker) or node.value.startswith(f"{target.name}/"):
                yield f"{node.lineno}: {node.value!r}"
        elif isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(
            f"exporter.targets.{target.name}."
        ):
            yield f"{node.lineno}: {node.module}"
        for part in (getattr(node, "id", None), getattr(node, "attr", None), getattr(node, "name", None)):
            other = OTHER_SENSE.get(target.name)
            if not isinstance(part, str) or (other and other.fullmatch(part)):
                continue
            if target.name in part.lower().split("_"):
                yield f"{getattr(node, 'lineno', 0)}: {part}"


def test_what_looks_for_names_finds_them() -> None:
    """The control."""
    target = registry.target("gguf")
    text = '"""gguf in prose"""\nif kind == "gguf":\n    gguf_options("gguf.json")\nfrom exporter.targets.gguf.host import X\n'
    assert [line.partition(":")[0] for line in sorted(mentions(text, target))] == ["2", "3", "3", "4"]
    assert not list(mentions('_WEIGHTS = (".gguf", "of gguf files")\n', target))


@pytest.mark.parametrize("name", sorted(registry.exports().keys() & {*EVERY}))
def test_no_file_but_its_own_names_it(name: str) -> None:
    target, found = registry.target(name), []
    made_of_it = {one for one in EVERY if name in registry.target(one).requires}
    own = (f"exporter/targets/{name}/", *(f"exporter/targets/{one}/" for one in made_of_it))
    for file in sorted((HOME / "exporter").rglob("*.py")):
        place = file.relative_to(HOME).as_posix()
        if place.startswith(own) or place in OWN.get(name, ()):
            continue
        lines = list(mentions(file.read_text(encoding="utf-8"), target))
        if place == "exporter/registry.py":
            assert len(lines) == 1, "the registry's own line"
            continue
        found += [f"{place}:{line}" for line in lines]
    assert not found
