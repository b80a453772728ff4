"""The content of a folder: the model of a run, the program of a model, or the summary of a folder without one. Loads no model."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from exporter import registry
from exporter.earlier_code import notes_without_proof
from exporter.errors import InputErrors
from exporter.fitted import yields_of
from exporter.inspection import Inspection, examine
from exporter.methods.base import KINDS, Yields
from exporter.targets.values import Summary
from exporter.workspace import Workspace
from steer_modules.program import STEERING_JSON


def model_in(folder: Path, say: Callable[[str], None], *, programs: bool = False) -> Path:
    """The checkpoint of a run's folder, and any other folder as it is.

    Args:
        say: is called with the folder that is used.
        programs: whether a steering program will do where there is no checkpoint yet.

    Raises:
        InputErrors: the run has none yet.
    """
    marks = (STEERING_JSON, *(one.marker for one in registry.targets().values()))
    if any((folder / name).is_file() for name in marks):
        return folder
    space = Workspace(folder)
    if (checkpoint := folder / "checkpoint" / "config.json").is_file():
        return _taken(checkpoint.parent, say)
    found = sorted(path.parent for path in folder.glob(f"steering/*/{STEERING_JSON}"))
    if programs and len(found) == 1:
        return _taken(found[0], say)
    if not space.owner.is_file():
        return folder
    named = f"; it contains the steering programs {', '.join(map(str, found))}" if programs and found else ""
    raise InputErrors(
        str(folder),
        [f"is the folder of a run that has no checkpoint yet; `steerbake run` resumes it{named}"],
    )


def fit_in(folder: Path, say: Callable[[str], None], wanted: Collection[Yields]) -> Path:
    """What a fit of a run has found, of its folder; any other folder as it is.

    Args:
        say: is called with the folder that is used.
        wanted: the kinds that will do.

    Raises:
        InputErrors: the run has none of these, or several.
    """
    if yields_of(folder) is not None or registry.kind_of(folder) is not None:
        return folder
    found = [one for one in sorted(folder.glob("steering/*")) if yields_of(one) in wanted]
    if len(found) == 1:
        return _taken(found[0], say)
    if not found and not Workspace(folder).owner.is_file():
        return folder
    kinds = " or ".join(KINDS[one] for one in wanted)
    told = (
        f"contains {', '.join(map(str, found))}; give one of them"
        if found
        else f"is the folder of a run that has not found {kinds}"
    )
    raise InputErrors(str(folder), [told])


def inspect(folder: Path) -> Inspection:
    """Inspect a checkpoint, an exported folder or a steering folder; raises an error if it is not valid."""
    kind = registry.kind_of(folder)
    if kind is None and (folder / STEERING_JSON).is_file():
        return examine(folder)
    found = registry.target(kind or registry.REFERENCE).inspect(folder)
    return replace(found, notes=(*found.notes, *notes_without_proof(folder)))


def section_of(folder: Path) -> dict[str, object]:
    """What the base was changed by of a folder that may stand at the root of a release, with its hashes checked.

    Raises:
        VerificationError, ValueError: it is no such folder, or not valid.
    """
    root = registry.root_at(folder)
    return dict((root or registry.target(registry.REFERENCE)).section(folder))


def summary(folder: Path) -> Summary | None:
    """The summary of a folder without a readable program, with its files checked; None for any other folder."""
    kind = registry.kind_of(folder)
    return None if kind is None else registry.target(kind).summary(folder, checked=True)


def _taken(folder: Path, say: Callable[[str], None]) -> Path:
    say(f"using {folder}")
    return folder
