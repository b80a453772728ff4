"""What a user sees when a command fails: one message, and a traceback only where ``--debug`` asks for it."""

from __future__ import annotations

import errno
import inspect
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Annotated, Any, ParamSpec

import typer

from exporter import registry
from exporter.errors import SteerbakeError

P = ParamSpec("P")
FAILED, BAD_INPUT, INTERRUPTED, PIPE_CLOSED = 1, 2, 130, 141
RESUMES = "the same command resumes where it stopped"
PACKAGES = {
    "PIL": "pillow",
    "datasets": "'steerbake[hub]'",
    "huggingface_hub": "huggingface-hub",
    "llama_cpp": "llama-cpp-python",
    "alembic": "'steerbake[tune]'",
    "matplotlib": "'steerbake[report]'",
    "rouge_score": "'steerbake[rewards]'",
    "optuna": "'steerbake[tune]'",
    "sentencepiece": "sentencepiece",
    "trl": "'steerbake[rewards]'",
    "sqlalchemy": "'steerbake[tune]'",
    "yaml": "pyyaml",
}
"""What to install for a module, where that has another name."""

_Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and no notes.")]
_Json = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON object, everything else to stderr.")
]
_asked = {"debug": False}


def debugging(wanted: bool) -> None:
    """Whether tracebacks are shown, from the option before the command's name."""
    _asked["debug"] = wanted


def reported(command: Callable[P, None]) -> Callable[P, None]:
    """Turn a failure into one message and an exit status: 2 for invalid input, 1 for other errors, 130 for an interruption.

    The command gets an option ``--debug``, with which it shows a traceback instead.
    """

    @wraps(command)
    def guarded(*args: Any, debug: bool = False, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
            sys.stdout.flush()
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except BrokenPipeError:
            _close_quietly()
            raise typer.Exit(PIPE_CLOSED) from None
        except KeyboardInterrupt:
            typer.echo(f"interrupted; {RESUMES}", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            if debug or _asked["debug"]:
                raise
            message, status = message_of(error)
            typer.echo(f"error: {message}", err=True)
            raise typer.Exit(status) from None

    return _with_options(guarded, command, debug=_Debug)


def answering(command: Callable[P, None]) -> Callable[P, None]:
    """Give a command that has a result the options ``--quiet`` and ``--json`` (see :func:`exporter.display.result`)."""

    @wraps(command)
    def telling(*args: Any, quiet: bool = False, as_json: bool = False, **kwargs: Any) -> None:
        from exporter import display

        with display.telling(quiet=quiet, as_json=as_json):
            command(*args, **kwargs)

    return _with_options(telling, command, quiet=_Quiet, as_json=_Json)


def message_of(error: Exception) -> tuple[str, int]:
    """(one message, the exit status) for an error."""
    if isinstance(error, tuple(_ours())):
        return str(error), BAD_INPUT
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" ({error.filename})" if error.filename else ""
        return f"the disk is full{where}; free some space, and {RESUMES}", FAILED
    if isinstance(error, OSError):
        named = error.filename and error.strerror
        return f"{error.filename}: {error.strerror}" if named else str(error), BAD_INPUT
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] not in (
        "exporter",
        "steer_modules",
    ):
        return _missing_package(error), FAILED
    if place := _without_memory(error):
        return (
            f"{place} does not have enough memory; lower report.batch_size or load in another type (base.dtype: bfloat16), and {RESUMES}",
            FAILED,
        )
    text = " ".join(str(error).split())
    shown = f"{type(error).__name__}: {text if len(text) <= 300 else text[:297] + '...'}".rstrip(": ")
    return (
        f"unexpected error: {shown}; run again with --debug for the traceback, and please report it ({RESUMES})",
        FAILED,
    )


def _ours() -> list[type[Exception]]:
    """Errors that are raised on purpose; modules that nobody has loaded have raised none."""
    found: list[type[Exception]] = [SteerbakeError]
    of_targets = [place for target in registry.targets().values() for place in target.errors]
    for place in ("steer_modules.checks:ProgramError", *of_targets):
        module, _, name = place.partition(":")
        if module in sys.modules:
            found.append(getattr(sys.modules[module], name))
    return found


def _missing_package(error: ImportError) -> str:
    name = (error.name or "").partition(".")[0]
    text = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and name:
        return f"the package {name} is needed and is not installed: pip install {_installed_as(name)}"
    mend = f": pip install --upgrade {_installed_as(name)}" if name and "pip install" not in text else ""
    return f"a package that is needed cannot be imported ({text}){mend}"


def _installed_as(module: str) -> str:
    """What pip is to install for a module."""
    of_targets = {
        name: package for target in registry.targets().values() for name, package in target.modules.items()
    }
    return {**of_targets, **PACKAGES}.get(module, module)


def _without_memory(error: Exception) -> str | None:
    """What ran out of memory; None where that is not what happened."""
    kind, text = type(error).__name__, str(error)
    if kind == "OutOfMemoryError" or "CUDA out of memory" in text:
        return "the GPU"
    if isinstance(error, MemoryError) or "can't allocate memory" in text or kind == "BrokenProcessPool":
        return "this machine"
    return None


def _close_quietly() -> None:
    """Whoever read our output has gone; Python must not complain about it when it ends."""
    with suppress(OSError, ValueError):  # no file behind it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _with_options(
    function: Callable[..., None], like: Callable[P, None], **options: object
) -> Callable[P, None]:
    """``function`` with the parameters of a command and further options behind them."""
    signature = inspect.signature(like, eval_str=True)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in options.items()
    ]
    function.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *more])  # type: ignore[attr-defined]
    function.__annotations__ = {**function.__annotations__, **options}
    return function
