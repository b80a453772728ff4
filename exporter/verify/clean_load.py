"""Loads a folder in a clean environment; run as a script, in a process that knows neither of our packages nor the network.

Reads one JSON object from stdin and prints one as its last line; :mod:`exporter.verify.strict` writes and reads them.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

OURS = ("exporter", "steer_modules", "export_configs")


class Absent(importlib.abc.MetaPathFinder):
    """Our packages do not exist here, wherever they are installed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        del path, target
        if name.partition(".")[0] in OURS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def no_network(*_: object, **__: object) -> NoReturn:
    """Stands for every connection."""
    raise OSError("there is no network here")


def main() -> None:
    """One folder, and whatever of its damaged copies must not load."""
    sys.path[:] = [
        path for path in sys.path if Path(path or ".").resolve() != Path(__file__).resolve().parent
    ]
    sys.meta_path.insert(0, Absent())
    socket.socket.connect = no_network  # type: ignore[method-assign]
    asked = json.load(sys.stdin)
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is loaded may print what it likes
    told = onnx(asked) if asked["kind"] == "onnx" else checkpoint(asked)
    told["ours"] = sorted(name for name in sys.modules if name.partition(".")[0] in OURS)
    answer.write(json.dumps(told))
    answer.close()


def checkpoint(asked: dict[str, Any]) -> dict[str, Any]:
    """A Transformers checkpoint: what is missing from it, what it says, and which of its damaged copies load."""
    import torch

    torch.set_num_threads(asked["threads"])
    told: dict[str, Any] = {"refused": {}}
    for name, folder in asked["damaged"].items():
        told["refused"][name] = refusal(folder, asked["auto"], trust=True)
    if asked["trust"]:
        told["refused"]["without trust_remote_code"] = refusal(asked["folder"], asked["auto"], trust=False)
    model, info = load(asked["folder"], asked["auto"], trust=asked["trust"], output_loading_info=True)
    told["class"] = type(model).__name__
    told["module"] = type(model).__module__
    told["verified"] = bool(getattr(getattr(model, "steering", None), "verified", False))
    told["missing"] = sorted(map(str, (*info["missing_keys"], *info["mismatched_keys"])))
    told["said"] = [list(say(model.eval(), ids, asked["new_tokens"])) for ids in asked["prompts"]]
    tokenizer = transformers_class("AutoTokenizer").from_pretrained(
        asked["folder"], trust_remote_code=asked["trust"]
    )
    told["read"] = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in asked["texts"]]
    return told


def load(folder: str, auto: str, *, trust: bool, **options: Any) -> Any:
    """The model in float32, through one of the Auto classes."""
    import torch

    return transformers_class(auto).from_pretrained(
        folder, trust_remote_code=trust, dtype=torch.float32, **options
    )


def refusal(folder: str, auto: str, *, trust: bool) -> str | None:
    """The name of the exception that loading ends with; None where it loads."""
    try:
        load(folder, auto, trust=trust)
    except Exception as error:  # noqa: BLE001 - any way of not loading will do
        return type(error).__name__
    return None


def transformers_class(name: str) -> Any:
    """A class of Transformers, as it is with nothing registered."""
    import transformers

    return getattr(transformers, name)


def say(model: Any, ids: list[int], count: int) -> Iterator[int]:
    """The greedy continuation of a prompt: of the folder's own generation settings the end tokens alone count."""
    import torch

    ends = model.generation_config.eos_token_id
    # The model's own, since generate takes from there whatever is unset in what it is handed.
    model.generation_config = transformers_class("GenerationConfig")(
        do_sample=False, num_beams=1, eos_token_id=ends, pad_token_id=0, max_new_tokens=count
    )
    inputs = torch.tensor([ids])
    with torch.no_grad():
        out = model.generate(
            input_ids=inputs,
            attention_mask=torch.ones_like(inputs),
            generation_config=model.generation_config,
        )
    yield from out[0, len(ids) :].tolist()


def onnx(asked: dict[str, Any]) -> dict[str, Any]:
    """A folder of graphs, by the runner that lies in it."""
    spec = importlib.util.spec_from_file_location("carried_runner", Path(asked["folder"]) / asked["runner"])
    assert spec is not None
    assert spec.loader is not None
    runner = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = runner
    spec.loader.exec_module(runner)
    told: dict[str, Any] = {
        "refused": {name: refusal_of_graphs(runner, folder) for name, folder in asked["damaged"].items()}
    }
    model = runner.OnnxModel(asked["folder"], threads=asked["threads"])
    told["said"] = [
        model.generate([ids], max_new_tokens=asked["new_tokens"])[0].tokens for ids in asked["prompts"]
    ]
    told["read"] = [model.encode(text) for text in asked["texts"]]
    told["loaded"] = sorted({"torch", "transformers"} & set(sys.modules))
    return told


def refusal_of_graphs(runner: Any, folder: str) -> str | None:
    """The name of the exception that a runner ends with; None where it runs."""
    try:
        runner.OnnxModel(folder)
    except Exception as error:  # noqa: BLE001 - any way of not loading will do
        return type(error).__name__
    return None


if __name__ == "__main__":
    main()
