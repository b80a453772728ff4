"""A clean environment: a process that knows neither of our packages nor the network, in which a folder is loaded as anyone loads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from exporter.errors import VerificationError
from exporter.targets.values import NEW_TOKENS, Completions, Finding

_SCRIPT = Path(__file__).with_name("clean_load.py")


def found(
    loader: Path, folder: Path, damaged: Mapping[str, Path], completions: Completions, **more: Any
) -> dict[str, Any]:
    """What a target's ``loader`` finds of a folder in a clean environment.

    Args:
        loader: a script whose ``find`` takes what is asked, as one JSON object, and returns what it found, as another.
        damaged: copies, by what is wrong with them, that must not load.
        more: what else the loader is to know.

    Returns:
        ``said`` and ``read`` (ids by prompt), ``refused`` (an exception's name or None by damaged copy), ``ours`` (our modules that were
        imported all the same), and what else the loader tells.

    Raises:
        VerificationError: it does not load; with the end of the process's output.
    """
    return _in_a_clean_process(
        {
            "loader": str(loader.resolve()),
            "folder": str(folder.resolve()),
            "damaged": {name: str(path) for name, path in damaged.items()},
            "prompts": [list(one.ids) for one in completions.prompts],
            "texts": [one.text for one in completions.prompts],
            "new_tokens": NEW_TOKENS,
            "threads": torch.get_num_threads(),
            **more,
        }
    )


def finding(wrong: list[str], observed: Mapping[str, Any], fine: str, mend: str) -> Finding:
    """What came of it: ``fine`` where nothing is wrong, else all of it with what to do."""
    if observed["ours"]:
        wrong.append(
            f"{observed['ours'][0]} was imported in the clean environment, which must not contain it"
        )
    value = {"refused": observed["refused"], "prompts": len(observed["said"])}
    if wrong:
        return Finding(False, "; ".join(wrong) + f"; {mend}", value)
    refused = f" and does not load {', '.join(observed['refused'])}" if observed["refused"] else ""
    return Finding(
        True, f"{fine}, generates the same tokens for {len(observed['said'])} prompts{refused}", value
    )


def noted(found: Finding, note: str | None) -> Finding:
    """The same with a note at the end, if there is one and the check holds: it is no failure."""
    if note is None or not found.holds:
        return found
    return found._replace(message=f"{found.message}. Note: {note}")


def differences(observed: Mapping[str, Any], completions: Completions) -> list[str]:
    """Where a clean environment's tokens, or the ids of the prompts, are not ours."""
    wrong = []
    others = sum(
        tuple(found[: len(ours)]) != ours
        for found, ours in zip(observed["said"], completions.tokens, strict=True)
    )
    if others:
        wrong.append(f"{others} of {len(completions.tokens)} replies differ from those of this process")
    read = sum(
        tuple(found) != one.ids for found, one in zip(observed["read"], completions.prompts, strict=True)
    )
    if read:
        wrong.append(f"its tokenizer splits {read} of {len(completions.prompts)} prompts differently")
    if not completions.prompts:
        wrong.append("there was no prompt without images to test")
    return wrong


def _in_a_clean_process(asked: Mapping[str, object]) -> dict[str, object]:
    with scratch() as home:
        kept = {name: value for name, value in os.environ.items() if "TOKEN" not in name.upper()}
        homes = {"HF_HOME": home / "home", "HF_MODULES_CACHE": home / "modules"}
        environment = {**kept, "HF_HUB_OFFLINE": "1", **{name: str(path) for name, path in homes.items()}}
        done = subprocess.run(  # noqa: S603 - our own script
            [sys.executable, str(_SCRIPT)],
            input=json.dumps(asked),
            cwd=home,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise VerificationError(
            f"{asked['folder']} does not load in a clean environment: {lines[-1] if lines else 'the process printed nothing'}"
        )
    observed: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return observed


def below(folder: Path) -> list[str]:
    """Every file of a folder by its path with slashes."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def link(folder: Path, copy: Path, files: Sequence[str]) -> None:
    """Makes ``copy`` a folder of links to some files of another."""
    for name in files:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).symlink_to((folder / name).resolve())


def change(source: Path, destination: Path) -> None:
    """A copy with one byte, the last, changed."""
    content = bytearray(source.read_bytes())
    content[-1] ^= 1
    destination.parent.mkdir(parents=True, exist_ok=True)
    destination.write_bytes(content)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="steerbake-") as folder:
        yield Path(folder)
