"""Benchmarks run now and then: what they import of this project is there, and has the names that they ask for."""

from __future__ import annotations

import ast
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parent.parent
OURS = ("exporter", "steer_modules", "benchmarks")


@pytest.mark.parametrize("file", sorted((HOME / "benchmarks").rglob("*.py")), ids=lambda file: file.stem)
def test_what_a_benchmark_imports_is_there(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in OURS:
            for alias in node.names:
                module = import_module(node.module)
                assert hasattr(module, alias.name) or find_spec(f"{node.module}.{alias.name}"), (
                    f"{file.relative_to(HOME)}:{node.lineno} imports {alias.name} of {node.module}"
                )
