"""Running foreign code where its death is not ours."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

from exporter.errors import CompileError

P = ParamSpec("P")
T = TypeVar("T")
_SHOWN = 5


def run_program(name: str, command: Sequence[str], hints: Mapping[str, str]) -> None:
    """Runs a program, offline.

    Args:
        name: what to call it where it fails.
        hints: what to tell the user where the program's output holds the key.

    Raises:
        CompileError: it failed; with the last lines it said.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    done = subprocess.run(  # noqa: S603 - the user named it
        command,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        said = f"{done.stdout}\n{done.stderr}"
        hint = next((hint for key, hint in hints.items() if key in said), "")
        raise CompileError(f"{name} failed with status {done.returncode}. {hint}\n{_last_words(said)}")


def _last_words(said: str) -> str:
    """The last lines of an output, without the places in a traceback."""
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith((" ", "Traceback"))]
    return "\n".join(f"  {line}" for line in lines[-_SHOWN:])


def apart(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a function in a process of its own; raises CompileError where that process dies (llama.cpp aborts on what it dislikes)."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(function, *args, **kwargs).result()
        except BrokenProcessPool:
            raise CompileError(
                f"llama.cpp crashed in {function.__name__}; see its output above, or try another version of it"
            ) from None
