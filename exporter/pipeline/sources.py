"""What a target can be made from: whether a folder is that, and where it is not, how to come to one that is."""

from __future__ import annotations

from pathlib import Path

from exporter import registry
from exporter.errors import CompileError, InputErrors
from exporter.fitted import yields_of
from exporter.methods.base import KINDS
from exporter.targets.base import AnyTarget


def refuse_source(target: AnyTarget, folder: Path) -> None:
    """Raises CompileError where a folder is known to be something that a target is not made from; the target itself says what else is wrong."""
    kind, found = registry.kind_of(folder), yields_of(folder)
    right = found in registry.takes(target.name) if target.of_fit else kind in target.requires
    if right or (kind is None and found is None):
        return
    raise CompileError(
        f"{folder} is {_what(folder)}, and {target.name} is {_made_of(target)}; {_way(target, folder)}"
    )


def why_silent(target: AnyTarget | None, folder: Path) -> InputErrors:
    """The error for a folder with which no conversation can be held, with what to do."""
    problem = "contains neither a steered checkpoint nor an exported folder"
    if target is not None and target.instead_of_chat:
        problem = f"is {_what(folder)}: {target.instead_of_chat}"
    elif yields_of(folder) is not None:
        problem = (
            f"is {_what(folder)}: run `steerbake compile BASE {folder} CHECKPOINT`, and chat with CHECKPOINT"
        )
    return InputErrors(str(folder), [problem])


def _what(folder: Path) -> str:
    found, kind = yields_of(folder), registry.kind_of(folder)
    return KINDS[found] if found is not None else f"a folder of the target {kind}"


def _made_of(target: AnyTarget) -> str:
    if target.of_fit:
        return f"made of {KINDS[registry.takes(target.name)[0]]} as a fit writes it"
    return f"made from {' or '.join(target.requires)}"


def _way(target: AnyTarget, folder: Path) -> str:
    """From a folder to one that the target is made from, as the next command."""
    found, kind = yields_of(folder), registry.kind_of(folder)
    if target.of_fit:
        return "give the folder RUN/steering/METHOD"
    if found is not None and found in registry.takes(target.name):
        return f"run `steerbake compile BASE {folder} CHECKPOINT` first, and export CHECKPOINT"
    between = next((name for name in target.requires if kind in registry.target(name).requires), None)
    if between is not None:
        return (
            f"run `steerbake export {between} {folder} {between.upper()}` first, and export {between.upper()}"
        )
    return f"give a folder of {' or '.join(target.requires)}"
