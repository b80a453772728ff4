"""Opens an exported folder as its users will; run as a script, in a process that has nothing but what the folder's runner needs.

Reads one JSON object from stdin and prints one as its last line; :mod:`exporter.targets.onnx.look` writes and reads them.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

ABSENT = (
    "exporter",
    "steer_modules",
    "export_configs",
    "torch",
    "transformers",
    "jinja2",
    "onnx",
    "safetensors",
)
TOKENS = 2


class Absent(importlib.abc.MetaPathFinder):
    """What a user of the folder need not have does not exist here."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        del path, target
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def main() -> None:
    """One folder; what its runner makes of prompts, and what each variant answers."""
    sys.path[:] = [
        path for path in sys.path if Path(path or ".").resolve() != Path(__file__).resolve().parent
    ]
    sys.meta_path.insert(0, Absent())
    asked = json.load(sys.stdin)
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    observed = looked(carried(Path(asked["folder"]) / asked["runner"]), asked)
    answer.write(json.dumps(observed))
    answer.close()


def carried(path: Path) -> object:
    """The runner that lies in the folder."""
    spec = importlib.util.spec_from_file_location("carried_runner", path)
    assert spec is not None
    assert spec.loader is not None
    runner = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = runner
    spec.loader.exec_module(runner)
    return runner


def looked(runner: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """Ids of every prompt, and a few tokens after the last of each kind by every variant."""
    ids: list[list[int]] = []
    replies: dict[str, list[list[int]]] = {}
    for dtype in runner.checked_manifest(Path(asked["folder"]))["variants"]:
        model = runner.OnnxModel(asked["folder"], dtype=dtype, provider="cpu", threads=asked["threads"])
        ids = ids or [prompt_ids(runner, model, one) for one in asked["prompts"]]
        replies[dtype] = []
        for image in sorted({one["image"] for one in asked["prompts"]}, key=str):
            (*_, chosen) = [
                found for one, found in zip(asked["prompts"], ids, strict=True) if one["image"] == image
            ]
            seen = None if image is None else runner.pixels([image], model.manifest["image"])
            said = model.generate([chosen or [0]], max_new_tokens=TOKENS, images=seen)
            replies[dtype].append(said[0].tokens)
        del model
    return {"ids": ids, "replies": replies}


def prompt_ids(runner: Any, model: Any, one: dict[str, Any]) -> list[int]:
    """As the runner's command line makes them."""
    if one["when"] is not None:
        runner.datetime = at(one["when"])
    sees = one["image"] is not None
    turns = model.manifest["turns"]
    text = one["said"][0] if one["raw"] else runner.conversation(turns, one["said"], sees)
    ids = model.encode(text)
    return list(model.expand_images(ids) if sees else ids)


def at(moment: str) -> type[datetime]:
    """In place of ``datetime``: now is the given moment."""

    class Moment(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            del tz
            return cls.fromisoformat(moment)

    return Moment


if __name__ == "__main__":
    main()
