"""What each file of a published folder holds, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from exporter import registry
from exporter.targets.base import AnyTarget
from exporter.targets.values import FileKind

_PUBLISHED = (
    FileKind(".eval_results/*.yaml", "evaluation results in the format of the Hub"),
    FileKind("plots/*", "plots of the results"),
    FileKind("README.md", "the card"),
    FileKind("report.html", "the report as one HTML file"),
    FileKind("verification.json", "every check and its result, and the hash of each file"),
    FileKind("provenance.json", "what the release was made from, and the hash of each file"),
)
_ANYWHERE = (
    FileKind("*.safetensors.index.json", "which file contains each tensor", minor=True),
    FileKind("*generation_config.json", "default generation settings", minor=True),
    FileKind("*processor_config.json", "image preprocessing", minor=True),
    FileKind("*chat_template*", "the chat template", minor=True),
    FileKind("*token*", "tokenizer", minor=True),
    FileKind("*vocab*", "tokenizer", minor=True),
    FileKind("*merges.txt", "tokenizer", minor=True),
    FileKind("*config.json", "architecture", minor=True),
    FileKind("*LICEN[SC]E*", "licence", minor=True),
    FileKind("*NOTICE*", "licence", minor=True),
)
ABOUT = "About the model"


@dataclass(frozen=True)
class FileLine:
    """One file of a folder.

    Attributes:
        holds: in words; empty where its name says nothing.
        matters: whether it is more than a part of what loads the others.
        size: in bytes; None where the file is not there.
    """

    path: str
    group: str
    holds: str
    matters: bool
    size: int | None
    sha256: str

    @property
    def shown_size(self) -> str:
        return "missing" if self.size is None else in_bytes(self.size)


def lines(folder: Path, files: Mapping[str, str]) -> list[FileLine]:
    """Every file of ``files`` (hex SHA-256 by path), by group and path."""
    root = registry.root_at(folder) or registry.target(registry.REFERENCE)
    found = [_line(folder, path, digest, root) for path, digest in files.items()]
    order = [*(one.title for one in registry.targets().values()), ABOUT]
    return sorted(found, key=lambda line: (order.index(line.group), line.path))


def _line(folder: Path, path: str, digest: str, root: AnyTarget) -> FileLine:
    kind = holds(path, root)
    return FileLine(path, _group(path, root), kind.holds, not kind.minor, _size(folder / path), digest)


def holds(path: str, root: AnyTarget | None = None) -> FileKind:
    """What a file of that path holds, in a release with ``root`` at its root; the steered checkpoint where that is not said."""
    target = _target_of(path, root or registry.target(registry.REFERENCE))
    inside = path.removeprefix(f"{target.name}/") if target.requires else path
    for kind in target.files if target.requires or "/" not in path else ():
        if fnmatchcase(inside, kind.pattern):
            return kind
    kinds = (*_PUBLISHED, *_ANYWHERE)
    return next((kind for kind in kinds if fnmatchcase(path, kind.pattern)), FileKind("", "", minor=True))


def _target_of(path: str, root: AnyTarget) -> AnyTarget:
    """The target in whose folder a file lies."""
    start, slash, _ = path.partition("/")
    exported = registry.exports()
    return exported[start] if slash and start in exported else root


def _group(path: str, root: AnyTarget) -> str:
    about = any(fnmatchcase(path, pattern) for pattern, *_ in _PUBLISHED) or path.startswith(
        (".eval_results/", "plots/")
    )
    return ABOUT if about else _target_of(path, root).title


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def in_bytes(size: int) -> str:
    """``1.2 MB``, in powers of a thousand as the Hub counts."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 999.5:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
