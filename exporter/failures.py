"""What a user sees when a command fails: one message for bad input, a traceback only for our own mistakes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import typer

from exporter.errors import SteerbakeError

P = ParamSpec("P")
BAD_INPUT, INTERRUPTED = 2, 130


def reported(command: Callable[P, None]) -> Callable[P, None]:
    """Turn what is wrong with the input into a message and status 2, and an interruption into status 130."""

    @wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            typer.echo("interrupted; the same command resumes where it stopped", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except (SteerbakeError, OSError, ValueError) as error:
            message = _message(error)
            if message is None:
                raise
            typer.echo(f"error: {message}", err=True)
            raise typer.Exit(BAD_INPUT) from None

    return guarded


def _message(error: SteerbakeError | OSError | ValueError) -> str | None:
    """What to tell the user; None for an error that is none of theirs."""
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    ours: list[type[Exception]] = [SteerbakeError]
    for module, name in (
        ("steer_modules.checks", "ProgramError"),
        ("exporter.targets.onnx_runner", "FolderError"),
    ):
        if module in sys.modules:
            ours.append(getattr(sys.modules[module], name))
    return str(error) if isinstance(error, tuple(ours)) else None
