"""Strict loading: a folder loads whole in a clean environment and steers, and damaged it does not load at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from exporter.errors import VerificationError
from exporter.foreign_code import check_code
from exporter.reader import loaded_config, takes_images
from exporter.types import Prompt
from steer_modules.files import WEIGHTS_INDEX

NEW_TOKENS = 12
_SCRIPT = Path(__file__).with_name("clean_load.py")
_SINGLE, _STEERING = "model.safetensors", "steering.safetensors"


class Finding(NamedTuple):
    """What came of one check.

    Attributes:
        told: a sentence; where the check fails, with what to do.
        value: what was measured, as plain data.
    """

    holds: bool
    told: str
    value: Any


class Completions(NamedTuple):
    """Prompts without images, and the NEW_TOKENS or fewer that our own code says after each, greedily."""

    prompts: Sequence[Prompt]
    tokens: Sequence[tuple[int, ...]]


def steered_checkpoint(folder: Path, completions: Completions, trusted: Path | None = None) -> Finding:
    """A steered checkpoint, by the code that travels in it.

    Args:
        trusted: a base whose own code may lie in the folder too.

    Raises:
        VerificationError: its code is not what this version writes, and is not run; or it does not load.
    """
    check_code(folder, trusted)
    auto = _auto_class(folder)
    with _linked_copies(folder) as (whole, damaged):
        told = _in_a_clean_process(_asked("checkpoint", whole, damaged, completions, auto=auto, trust=True))
    wrong = [f"it loads {name}" for name, how in told["refused"].items() if how is None]
    wrong += (
        [f"{len(told['missing'])} tensors are missing, {told['missing'][0]} first"] if told["missing"] else []
    )
    if not told["verified"]:
        wrong.append(f"its class {told['class']} has not verified its steering")
    return _finding(
        wrong + _differences(told, completions),
        told,
        f"it loads whole through {auto} (vLLM, SGLang and TGI refuse it: serve the target stock there)",
        "compile it again",
    )


def stock_checkpoint(folder: Path, completions: Completions) -> Finding:
    """A checkpoint of a stock architecture, by Transformers alone: no code may lie in it or be asked for."""
    auto = _auto_class(folder)
    told = _in_a_clean_process(_asked("stock", folder, {}, completions, auto=auto, trust=False))
    wrong = (
        [f"{len(told['missing'])} tensors are missing, {told['missing'][0]} first"] if told["missing"] else []
    )
    wrong += [f"it holds code: {path.name}" for path in sorted(folder.glob("*.py"))]
    if not told["module"].startswith("transformers.models."):
        wrong.append(f"its class is {told['module']}.{told['class']}, not one of Transformers")
    wrong += _differences(told, completions)
    return _finding(
        wrong, told, f"{told['class']} loads whole without trust_remote_code", "export the stock again"
    )


def onnx_folder(folder: Path, runner: str, files: Sequence[str], completions: Completions) -> Finding:
    """A folder of graphs, by the runner that lies in it and without PyTorch.

    Args:
        runner: name of that runner's file.
        files: paths in the folder that its manifest names.

    Raises:
        VerificationError: its runner is not what this version writes, and is not run; or it does not run.
    """
    check_code(folder)
    smallest = min(
        files, key=lambda name: (folder / name).stat().st_size
    )  # a copy of the graphs would be large
    with _scratch() as scratch:
        missing, changed = scratch / "missing", scratch / "changed"
        for copy in (missing, changed):
            _link(folder, copy, [path for path in _below(folder) if path != smallest])
        _change(folder / smallest, changed / smallest)
        damaged = {f"without {smallest}": missing, f"with a changed {smallest}": changed}
        told = _in_a_clean_process(_asked("onnx", folder, damaged, completions, runner=runner))
    wrong = [f"it loads {name}" for name, how in told["refused"].items() if how is None]
    wrong += [f"its runner imports {', '.join(told['loaded'])}"] if told["loaded"] else []
    wrong += _differences(told, completions)
    return _finding(wrong, told, "its runner runs it without PyTorch", "export it again")


def _finding(wrong: list[str], told: Mapping[str, Any], fine: str, mend: str) -> Finding:
    if told["ours"]:
        wrong.append(f"{told['ours'][0]} was imported in what should be a clean process")
    value = {"refused": told["refused"], "prompts": len(told["said"])}
    if wrong:
        return Finding(False, "; ".join(wrong) + f"; {mend}", value)
    refused = f" and refuses to load {', '.join(told['refused'])}" if told["refused"] else ""
    return Finding(True, f"{fine}, says the same tokens after {len(told['said'])} prompts{refused}", value)


def _differences(told: Mapping[str, Any], completions: Completions) -> list[str]:
    """Where a clean environment's tokens, or the ids of the prompts, are not ours."""
    wrong = []
    others = sum(
        tuple(found[: len(ours)]) != ours
        for found, ours in zip(told["said"], completions.tokens, strict=True)
    )
    if others:
        wrong.append(f"{others} of {len(completions.tokens)} replies are not the ones that are said here")
    read = sum(tuple(found) != one.ids for found, one in zip(told["read"], completions.prompts, strict=True))
    if read:
        wrong.append(f"its tokenizer cuts {read} of {len(completions.prompts)} prompts otherwise")
    if not completions.prompts:
        wrong.append("no prompt without images was there to try")
    return wrong


def _asked(
    kind: str, folder: Path, damaged: Mapping[str, Path], completions: Completions, **more: Any
) -> dict[str, Any]:
    return {
        "kind": kind,
        "folder": str(folder.resolve()),
        "damaged": {name: str(path) for name, path in damaged.items()},
        "prompts": [list(one.ids) for one in completions.prompts],
        "texts": [one.text for one in completions.prompts],
        "new_tokens": NEW_TOKENS,
        "threads": torch.get_num_threads(),
        **more,
    }


def _in_a_clean_process(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What :mod:`exporter.verify.clean_load` finds; raises VerificationError with the end of its output where it fails."""
    with _scratch() as scratch:
        kept = {name: value for name, value in os.environ.items() if "TOKEN" not in name.upper()}
        homes = {"HF_HOME": scratch / "home", "HF_MODULES_CACHE": scratch / "modules"}
        environment = {**kept, "HF_HUB_OFFLINE": "1", **{name: str(path) for name, path in homes.items()}}
        done = subprocess.run(  # noqa: S603 - our own script
            [sys.executable, str(_SCRIPT)],
            input=json.dumps(asked),
            cwd=scratch,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise VerificationError(
            f"{asked['folder']} does not load in a clean process: {lines[-1] if lines else 'it ended without a word'}"
        )
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


@contextmanager
def _linked_copies(folder: Path) -> Iterator[tuple[Path, dict[str, Path]]]:
    """A checkpoint as links to its files, and copies of it that differ by one fault each and must not load.

    What is tried is linked like the damaged copies, so that nothing but the fault can be why those do not load.
    """
    files = [
        path for path in _below(folder) if "/" not in path or path.startswith("additional_chat_templates/")
    ]
    with _scratch() as scratch:
        copies = {name: scratch / name for name in ("whole", "missing", "changed", "beside", "bare")}
        for copy in copies.values():
            _link(folder, copy, files)
        (copies["missing"] / _STEERING).unlink()
        (copies["changed"] / _STEERING).unlink()
        _change(folder / _STEERING, copies["changed"] / _STEERING)
        (copies["beside"] / _SINGLE).symlink_to(_a_shard(folder))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (copies["bare"] / "config.json").unlink()
        (copies["bare"] / "config.json").write_text(
            json.dumps({**config, "steering": None}), encoding="utf-8"
        )
        damaged = {
            "without its steering file": copies["missing"],
            "with one byte of it changed": copies["changed"],
            f"with a {_SINGLE} that a stock class would load": copies["beside"],
            "without its steering section": copies["bare"],
        }
        yield copies["whole"], damaged


def _a_shard(folder: Path) -> Path:
    """A shard of the base, which a single weight file beside the index would be."""
    weights = json.loads((folder / WEIGHTS_INDEX).read_text(encoding="utf-8"))["weight_map"]
    return (folder / next(name for name in weights.values() if name != _STEERING)).resolve()


def _auto_class(folder: Path) -> str:
    """The Auto class of a checkpoint's task."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tasks = ("AutoModelForImageTextToText", "AutoModelForCausalLM")
    told = config.get("auto_map")
    if told:
        return next(name for name in tasks if name in told)
    return tasks[0] if takes_images(loaded_config(config)) else tasks[1]


def _below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _link(folder: Path, copy: Path, files: Sequence[str]) -> None:
    for name in files:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).symlink_to((folder / name).resolve())


def _change(source: Path, destination: Path) -> None:
    """A copy with one byte, the last, changed."""
    content = bytearray(source.read_bytes())
    content[-1] ^= 1
    destination.parent.mkdir(parents=True, exist_ok=True)
    destination.write_bytes(content)


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="steerbake-") as folder:
        yield Path(folder)
