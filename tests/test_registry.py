"""What the registry promises: names lead to objects with their contract, nothing heavy is loaded for them, and an unknown one lists the valid ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from exporter import registry
from exporter.errors import SteerbakeError
from exporter.targets.base import Target


@pytest.mark.parametrize("name", registry.METHODS)
def test_a_method_keeps_its_contract(name: str) -> None:
    method = registry.resolve(registry.METHODS, "method", name)
    assert method.name == name and callable(method.fit)
    assert method.paper.startswith("https://") or (Path(__file__).parents[1] / method.paper).is_file()
    method.Params()
    with pytest.raises(ValidationError):
        method.Params.model_validate({"no such parameter": 1})


@pytest.mark.parametrize("name", registry.READERS)
def test_a_reader_keeps_its_contract(name: str) -> None:
    reader = registry.resolve(registry.READERS, "reader", name)()
    assert callable(reader.rows) and reader.default_role in (None, "reasoning")


def test_an_unknown_name_lists_the_valid_ones() -> None:
    for look in (registry.target, lambda name: registry.resolve(registry.METHODS, "method", name)):
        with pytest.raises(SteerbakeError, match=r"'none'; .*(keyed|checkpoint)"):
            look("none")


def test_targets_come_behind_what_they_are_made_of() -> None:
    """Whatever the order of a recipe; those that need the base in memory first of those that can be made."""
    assert registry.in_order(["gguf", "onnx", "stock", "onnx"]) == ["stock", "onnx", "gguf"]
    assert registry.in_order(["onnx"]) == ["onnx"] and registry.in_order([]) == []


def test_a_target_is_made_of_what_the_method_finds() -> None:
    assert registry.made_of("gguf", "program") == "stock" and registry.made_of("gguf", "edit") == "merged"
    assert (
        registry.made_of("onnx", "program") == "checkpoint" and registry.made_of("onnx", "edit") == "merged"
    )
    assert registry.made_of("stock", "edit") is None and registry.made_of("merged", "edit") is None
    assert registry.takes("gguf") == ("program", "edit") and registry.takes("adapter") == ("edit",)
    assert registry.from_root("gguf", "edit") and not registry.from_root("gguf", "program")
    assert registry.in_order(["gguf", "adapter", "onnx"], "edit") == ["gguf", "adapter", "onnx"]


def test_one_name_in_place_of_several_is_refused() -> None:
    with pytest.raises(TypeError, match="requires of Wrong is 'stock'"):
        type("Wrong", (Target,), {"requires": "stock"})


def test_names_and_recipes_load_no_pytorch() -> None:
    """Nor does a command line that only tells its commands."""
    script = (
        "import sys, exporter.cli, exporter.recipe, exporter.registry as r\n"
        "[one.Options.flags() for one in r.targets().values()]\n"
        "sys.exit(bool({'torch', 'transformers', 'onnx'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
