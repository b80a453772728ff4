"""Runs a folder of graphs in a clean environment (:mod:`exporter.targets.clean_load` imports this file by its place)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any


def find(asked: dict[str, Any]) -> dict[str, Any]:
    """A folder of graphs, by the runner that lies in it."""
    spec = importlib.util.spec_from_file_location("carried_runner", Path(asked["folder"]) / asked["runner"])
    assert spec is not None
    assert spec.loader is not None
    runner = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = runner
    spec.loader.exec_module(runner)
    observed: dict[str, Any] = {
        "refused": {name: refusal_of_graphs(runner, folder) for name, folder in asked["damaged"].items()}
    }
    model = runner.OnnxModel(asked["folder"], threads=asked["threads"])
    observed["said"] = [
        model.generate([ids], max_new_tokens=asked["new_tokens"])[0].tokens for ids in asked["prompts"]
    ]
    observed["read"] = [model.encode(text) for text in asked["texts"]]
    observed["loaded"] = sorted({"torch", "transformers"} & set(sys.modules))
    return observed


def refusal_of_graphs(runner: Any, folder: str) -> str | None:
    """The name of the exception that a runner ends with; None where it runs."""
    try:
        runner.OnnxModel(folder)
    except Exception as error:  # noqa: BLE001 - any way of not loading will do
        return type(error).__name__
    return None
