"""The files of a published folder: which there are, what their bytes hash to, and which of them only describe the others."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from exporter import registry
from exporter.atomic import partial_of
from exporter.digests import digest_of_file
from exporter.errors import VerificationError

CARD = "README.md"
PAGE = "report.html"
VERIFICATION = "verification.json"
PROVENANCE = "provenance.json"
PLOTS = "plots"
EVAL_RESULTS = ".eval_results"
RESULTS = f"{EVAL_RESULTS}/steerbake.yaml"
CHECKPOINT = registry.REFERENCE
"""How the folder's own root is called among the targets."""

_PICTURES = (".png", ".svg", ".jpg", ".webp")
_OTHERS = (".git", ".gitattributes", ".cache/huggingface")
"""What git and the Hub put beside a repository's files; nobody loads them, and they are never uploaded."""


def files_of(folder: Path) -> list[str]:
    """Every file of a published folder by its path with slashes, sorted.

    Links to files count as files (the Hub's cache is made of them).

    Raises:
        VerificationError: there is no such folder, or it holds a link to a folder, a broken link, something that is neither file nor
            folder, or a name that a repository cannot have.
    """
    if not folder.is_dir():
        raise VerificationError(
            f"{folder} is not a folder; give one that `steerbake publish` or `compile` wrote"
        )
    return sorted(_walk(folder, ""))


def _walk(folder: Path, prefix: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            path = prefix + entry.name
            if path in _OTHERS:
                continue
            _check_name(folder, entry.name)
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(folder / entry.name, f"{path}/")
            elif entry.is_file():
                yield path
            else:
                raise VerificationError(
                    f"{folder / entry.name} is neither a file nor a folder; replace it by the file itself, or remove it"
                )


def _check_name(folder: Path, name: str) -> None:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise VerificationError(f"{folder} contains a file whose name is not UTF-8: {name!r}") from None
    if "\\" in name or any(ord(letter) < 32 for letter in name):
        raise VerificationError(
            f"{folder} contains a file whose name is not allowed in a repository: {name!r}"
        )


def is_described(path: str) -> bool:
    """Whether a file describes the others and may change after they were verified: card, page, plots, evaluation results, provenance."""
    place = PurePosixPath(path)
    if len(place.parts) == 2:
        kinds = {PLOTS: _PICTURES, EVAL_RESULTS: (".yaml",)}.get(place.parts[0], ())
        return place.suffix in kinds
    return path in (CARD, PAGE, PROVENANCE)


def sweep(folder: Path) -> None:
    """Removes what a process left that was killed while it described the folder: it would count as a file that was added."""
    for path in (CARD, PAGE, VERIFICATION, PROVENANCE, RESULTS):
        partial_of(folder / path).unlink(missing_ok=True)


def is_verified(path: str) -> bool:
    """Whether a verification covers the file: all but those that describe, and the verification itself."""
    return path != VERIFICATION and not is_described(path)


def hashes(folder: Path, paths: Iterable[str]) -> dict[str, str]:
    """Hex SHA-256 of each file by its path."""
    return {path: digest_of_file(folder / path) for path in paths}


def covered(folder: Path) -> dict[str, str]:
    """Hex SHA-256 by path of every file that a verification of a folder covers."""
    return hashes(folder, filter(is_verified, files_of(folder)))


def changes(told: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """What differs between the hashes that were ``told`` and those that are ``found``, by path: one sentence a file."""
    lines = [f"{path} is missing" for path in sorted(set(told) - set(found))]
    lines += [f"{path} was added" for path in sorted(set(found) - set(told))]
    both = sorted(set(found) & set(told))
    lines += [f"{path} was changed" for path in both if found[path] != told[path]]
    return lines


def targets_in(folder: Path) -> dict[str, Path]:
    """The targets that a folder holds, by name: the checkpoint, steered or merged, at its root, and those in folders of their own."""
    found = {CHECKPOINT: folder} if registry.root_at(folder) is not None else {}
    return found | {
        name: folder / name for name, one in registry.exports().items() if one.is_at(folder / name)
    }
