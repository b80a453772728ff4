"""Code that earlier versions of steerbake wrote into checkpoints and exported folders, known by its digests.

``earlier_code.json`` has them, and the templates of modeling files by lines; ``python -m benchmarks.earlier_code`` writes it from the history.
A folder's code is that of an earlier version only as a whole: files of several versions together are the code of none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import steer_modules
from exporter.registry import targets

if TYPE_CHECKING:
    from steer_modules.template import StockClasses

DIGESTS = Path(__file__).with_name("earlier_code.json")
CHECKPOINT, RUNNER = "checkpoint", "runner"
"""The kinds of folders that carry code."""
MODELING = "/modeling"
"""Stands for the modeling file in the digest of a version; no file can have the name."""
_AGAIN = {CHECKPOINT: "compile", RUNNER: "export"}
_HOME = Path(steer_modules.__file__).parent
_MODULE = re.compile(r"^from \.(\w+) import __name__ as _\1$", re.MULTILINE)


@dataclass(frozen=True)
class EarlierCode:
    """What earlier versions wrote into one kind of folder.

    Attributes:
        files: hex SHA-256 of every content that a file ever had, by its name in the folder.
        versions: of every version, the digest of all its code (:func:`version_digest`).
        templates: the texts that modeling files were rendered from.
    """

    files: Mapping[str, frozenset[str]]
    versions: frozenset[str]
    templates: tuple[str, ...] = ()

    def has_file(self, name: str, content: bytes, stock: StockClasses | None = None) -> bool:
        """Whether some version wrote this content under this name.

        Args:
            stock: the classes that a checkpoint builds on, for which its modeling file is rendered.
        """
        if stock is not None and name == f"{stock.module_name}.py":
            return self._filled(content, stock) is not None
        return digest_of_bytes(content) in self.files.get(name, ())

    def has_version(self, code: Mapping[str, bytes], stock: StockClasses | None = None) -> bool:
        """Whether these files by name, no more and no fewer, are the code of one version; ``stock`` as in :meth:`has_file`."""
        files, digests = dict(code), {}
        if stock is not None:
            filled = self._filled(files.pop(f"{stock.module_name}.py", b""), stock)
            if filled is None:
                return False
            digests[MODELING] = digest_of_bytes(filled.encode("utf-8"))
        digests |= {name: digest_of_bytes(content) for name, content in files.items()}
        return files.keys() <= self.files.keys() and version_digest(digests) in self.versions

    def _filled(self, content: bytes, stock: StockClasses) -> str | None:
        """The template that a modeling file was rendered from for these very classes, with its modules; None where there is none."""
        from steer_modules.template import with_modules

        modules = [f"{name}.py" for name in _MODULE.findall(content.decode("utf-8", errors="replace"))]
        for template in self.templates:
            if stock.source(template, modules).encode("utf-8") == content:
                return with_modules(template, modules)
        return None


@cache
def earlier_code() -> dict[str, EarlierCode]:
    """The code of earlier versions by the kind of folder that carries it."""
    content = json.loads(DIGESTS.read_text(encoding="utf-8"))
    return {
        kind: EarlierCode(
            {name: frozenset(digests) for name, digests in one["files"].items()},
            frozenset(one["versions"]),
            tuple("\n".join(lines) for lines in one.get("templates", ())),
        )
        for kind, one in content.items()
    }


def notes_without_proof(folder: Path) -> list[str]:
    """The note on a folder's code for who only looks at it, loading nothing: its modeling file is not compared here, nor its version whole."""
    ours = {name: path for one in targets().values() for name, path in one.code.items()}
    found = []
    for kind, known in sorted(earlier_code().items()):
        names = [name for name in known.files if (folder / name).is_file()]
        code = {name: (folder / name).read_bytes() for name in names}
        is_ours = [_is_at(ours.get(name, _HOME / name), content) for name, content in code.items()]
        if not all(is_ours) and all(known.has_file(name, content) for name, content in code.items()):
            found.append(f"{note(kind)} (`steerbake verify` compares all of it)")
    return found


def note(kind: str, home: str = "") -> str:
    """What the user must know of code of an earlier version.

    Args:
        kind: of the folder that has it.
        home: the folder below the one that was asked for, if it lies there.
    """
    return (
        f"{f'the code in {home}' if home else 'its code'} is of an earlier version of steerbake and checks less when it loads than today's "
        f"does; {_AGAIN[kind]} it again to have the newer checks"
    )


def version_digest(digests: Mapping[str, str]) -> str:
    """Hex SHA-256 of one version's code: of the lines that ``sha256sum`` prints of its files, sorted by name.

    Args:
        digests: hex SHA-256 by name; under ``MODELING`` that of the template with the modules filled in.
    """
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return digest_of_bytes(lines.encode("utf-8"))


def digest_of_bytes(content: bytes) -> str:
    """Hex SHA-256."""
    return sha256(content).hexdigest()


def _is_at(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content
