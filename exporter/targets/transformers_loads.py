"""Checkpoints held to what they must be in a clean environment: loaded whole they say the same, and damaged they do not load."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from exporter.errors import VerificationError
from exporter.foreign_code import check_code, earlier_notes
from exporter.reader import loaded_config, takes_images
from exporter.targets import clean_environment as clean
from exporter.targets.checkpoint_target import served
from exporter.targets.values import Completions, Finding
from steer_modules.files import WEIGHTS_INDEX

SCRIPT = Path(__file__).with_name("transformers_clean_load.py")
_SINGLE, _STEERING = "model.safetensors", "steering.safetensors"


def steered_checkpoint(folder: Path, completions: Completions, trusted: Path | None = None) -> Finding:
    """A steered checkpoint, by the code that travels in it.

    Args:
        trusted: a base whose own code may lie in the folder too.

    Raises:
        VerificationError: its code is not what this version or an earlier one writes, and is not run; or it does not load.
    """
    for name in ("config.json", WEIGHTS_INDEX, _STEERING):
        if not (folder / name).is_file():
            raise VerificationError(
                f"{folder} has no {name}, so the checkpoint is incomplete; compile it again"
            )
    check_code(folder, trusted)
    auto = auto_class(folder)
    with _linked_copies(folder) as (whole, damaged):
        observed = clean.found(SCRIPT, whole, damaged, completions, auto=auto, trust=True)
    wrong = [f"it loads {name}" for name, how in observed["refused"].items() if how is None]
    wrong += (
        [f"{len(observed['missing'])} tensors are missing, {observed['missing'][0]} first"]
        if observed["missing"]
        else []
    )
    if not observed["verified"]:
        wrong.append(f"its class {observed['class']} did not verify its steering")
    found = clean.finding(
        wrong + clean.differences(observed, completions),
        observed,
        f"it loads completely through {auto} (vLLM, SGLang and TGI refuse it{_instead()})",
        "compile it again",
    )
    return clean.noted(found, earlier_notes(folder, trusted).get(""))


def plain_checkpoint(
    folder: Path, completions: Completions, mend: str, damaged: Mapping[str, Path]
) -> Finding:
    """A checkpoint of a stock architecture, by Transformers alone: no code may lie in it or be asked for.

    Args:
        mend: what to do where anything is wrong.
        damaged: copies that must not load, by what is wrong with them.
    """
    auto = auto_class(folder)
    observed = clean.found(SCRIPT, folder, damaged, completions, auto=auto, trust=False)
    wrong = (
        [f"{len(observed['missing'])} tensors are missing, {observed['missing'][0]} first"]
        if observed["missing"]
        else []
    )
    wrong += [f"it contains code: {path.name}" for path in sorted(folder.glob("*.py"))]
    if not observed["module"].startswith("transformers.models."):
        wrong.append(f"its class {observed['module']}.{observed['class']} is not a Transformers class")
    wrong += clean.differences(observed, completions)
    return clean.finding(
        wrong,
        observed,
        f"{observed['class']} loads completely without trust_remote_code",
        mend,
    )


@contextmanager
def _linked_copies(folder: Path) -> Iterator[tuple[Path, dict[str, Path]]]:
    """A checkpoint as links to its files, and copies of it that differ by one fault each and must not load.

    What is tried is linked like the damaged copies, so that nothing but the fault can be why those do not load.
    """
    files = [
        path
        for path in clean.below(folder)
        if "/" not in path or path.startswith("additional_chat_templates/")
    ]
    with clean.scratch() as scratch:
        copies = {name: scratch / name for name in ("whole", "missing", "changed", "beside", "bare")}
        for copy in copies.values():
            clean.link(folder, copy, files)
        (copies["missing"] / _STEERING).unlink()
        (copies["changed"] / _STEERING).unlink()
        clean.change(folder / _STEERING, copies["changed"] / _STEERING)
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


def auto_class(folder: Path) -> str:
    """The Auto class of a checkpoint's task."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tasks = ("AutoModelForImageTextToText", "AutoModelForCausalLM")
    auto_map = config.get("auto_map")
    if auto_map:
        return next(name for name in tasks if name in auto_map)
    return tasks[0] if takes_images(loaded_config(config)) else tasks[1]


def _instead() -> str:
    """What servers that refuse it are to be given."""
    there = served()
    return "" if there is None else f": serve the target {there.name} there"
