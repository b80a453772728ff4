"""The files that are to be published, as they were when they were read; and how they differ from what a repository holds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from exporter.errors import PublishError

OF_THE_HUB = (".gitattributes",)
"""Written by the Hub itself: which files of a repository are kept outside git."""
_CHUNK = 1 << 20
_SMALL = 10_000_000
"""Files of at most this many bytes may be kept in git, and are then sent within the commit."""


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository's tree.

    Args:
        size: bytes.
        git_oid: Git's SHA-1 of the file where git holds it, of a pointer where it does not.
        sha256: hex SHA-256 of a file that lies outside git; None for one that git holds.
    """

    size: int
    git_oid: str
    sha256: str | None


@dataclass(frozen=True)
class UploadFile:
    """One file of the folder: its bytes by both of the names that the Hub gives them, and how it lay there when it was read."""

    place: Path
    size: int
    sha256: str
    git_oid: str
    stamp: tuple[int, int, int]
    content: bytes | None = field(repr=False, default=None)
    """The bytes of a small file, so that what goes into the commit is what was read; None for a larger one."""

    def is_(self, remote: RemoteFile | None) -> bool:
        """Whether the repository holds exactly these bytes."""
        if remote is None or remote.size != self.size:
            return False
        return remote.git_oid == self.git_oid if remote.sha256 is None else remote.sha256 == self.sha256


@dataclass(frozen=True)
class UploadManifest:
    """Everything that a repository is to hold, by path."""

    files: Mapping[str, UploadFile]

    @classmethod
    def read(cls, folder: Path, paths: Sequence[str], secret: Callable[[], str | None]) -> UploadManifest:
        """Reads every file once.

        Args:
            folder: where they lie.
            paths: relative, with forward slashes.
            secret: gives what none of the files may contain.

        Raises:
            PublishError: a path leaves the folder, is no plain file, is the Hub's own, or holds the secret.
        """
        if not paths:
            raise PublishError(f"{folder}: no file to publish")
        problems = [problem for path in paths if (problem := _problem(folder, path))]
        if problems:
            raise PublishError(f"{folder} cannot be published: " + "; ".join(problems))
        return cls({path: _read(folder / path, path, secret) for path in sorted(set(paths))})

    def differences(self, tree: Mapping[str, RemoteFile]) -> list[str]:
        """Paths at which a repository holds other bytes, no file, or a file that is not offered."""
        changed = {path for path, file in self.files.items() if not file.is_(tree.get(path))}
        return sorted(changed | (set(tree) - set(self.files) - set(OF_THE_HUB)))

    def check_sealed(self, sealed: Mapping[str, str]) -> None:
        """Raises PublishError where a file has other bytes than its seal says: hex SHA-256 by path."""
        changed = [path for path, digest in sealed.items() if digest != self._digest(path)]
        if changed:
            raise PublishError(
                f"{', '.join(changed)} changed since provenance.json was written, so nothing was published; verify the folder again, then "
                "push it"
            )

    def _digest(self, path: str) -> str | None:
        file = self.files.get(path)
        return None if file is None else file.sha256

    def check_unchanged(self) -> None:
        """Raises PublishError where a file was written to since it was read."""
        changed = [path for path, file in self.files.items() if _stamp(file.place) != file.stamp]
        if changed:
            raise PublishError(
                f"{', '.join(changed)} changed while it was being uploaded, so nothing was published; "
                "verify the folder again, then push it"
            )


def _problem(folder: Path, path: str) -> str | None:
    """Why a path cannot be published."""
    pure, place = PurePosixPath(path), folder / path
    if pure.is_absolute() or ".." in pure.parts or "\\" in path or path != pure.as_posix():
        return f"{path!r} is not a relative path with forward slashes"
    if path in OF_THE_HUB:
        return f"{path} is written by the Hub itself"
    if not place.is_file():
        return f"{path} is missing"
    if place.resolve() != folder.resolve() / path:
        return f"{path} is a link; replace it by the file itself"
    return None


def _read(place: Path, path: str, secret: Callable[[], str | None]) -> UploadFile:
    """Digests of one file; raises PublishError where it holds the secret."""
    stamp = _stamp(place)
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % stamp[0], usedforsecurity=False)
    needle = (secret() or "").encode()
    tail, kept = b"", list[bytes]()
    with place.open("rb") as file:
        while chunk := file.read(_CHUNK):
            sha256.update(chunk)
            git.update(chunk)
            if stamp[0] <= _SMALL:
                kept.append(chunk)
            if needle and needle in tail + chunk:
                del needle  # a traceback that shows local variables must not show it
                raise PublishError(
                    f"{path} contains your Hub token; remove it from the file, and revoke the token"
                )
            tail = chunk[-len(needle) :] if needle else b""
    content = b"".join(kept) if stamp[0] <= _SMALL else None
    return UploadFile(place, stamp[0], sha256.hexdigest(), git.hexdigest(), stamp, content)


def _stamp(place: Path) -> tuple[int, int, int]:
    """Size in bytes, time of the last change in nanoseconds, and inode; all -1 where there is no file."""
    try:
        found = place.stat()
    except OSError:
        return (-1, -1, -1)
    return found.st_size, found.st_mtime_ns, found.st_ino
