"""How to load each target of a published folder: three lines that pin the revision, taken from what the folder holds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from exporter import registry
from exporter.errors import VerificationError
from exporter.publish.metadata import is_repo_id
from exporter.publish.origin import PinnedBase
from exporter.targets.values import UsageSnippet

_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
LOCAL = "path/to/this/folder"
"""What a card names where there is no repository to load from."""


@dataclass(frozen=True)
class Place:
    """Where a reader finds the folder: a repository at a pinned revision, or a folder on a disk (``repo_id`` None).

    Attributes:
        base: what the release was made from; None where that is not known.
    """

    repo_id: str | None
    revision: str | None
    base: PinnedBase | None = None

    def __post_init__(self) -> None:
        if self.repo_id is None:
            return
        if not is_repo_id(self.repo_id):
            raise VerificationError(f"a repository has the form owner/name; received {self.repo_id!r}")
        if self.revision is None or not _REVISION.fullmatch(self.revision):
            raise VerificationError(
                f"the revision of a card must be a tag or a commit; received {self.revision!r}"
            )

    @property
    def root(self) -> str:
        """The folder in which a downloaded target lies."""
        return LOCAL if self.repo_id is None else self.repo_id.split("/")[-1]

    def pretrained(self, options: str = "") -> str:
        """Arguments of ``from_pretrained``."""
        if self.repo_id is None:
            return f'"{LOCAL}"{options}'
        return f'"{self.repo_id}", revision="{self.revision}"{options}'

    def base_pretrained(self) -> str:
        """Arguments of ``from_pretrained`` of the base that an adapter belongs onto."""
        if self.base is None or not _is_named(self.base.repo):
            return '"path/to/the/base"'
        commit = self.base.commit or ""
        pinned = f', revision="{commit}"' if _REVISION.fullmatch(commit) else ""
        return f'"{self.base.repo}"{pinned}'

    def base_adapters(self) -> tuple[str, ...]:
        """The same of every adapter that is merged into that base first, in order."""
        merged = () if self.base is None else self.base.adapters
        return tuple(f'"{one.repo}"' if _is_named(one.repo) else '"path/to/an/adapter"' for one in merged)

    def download(self, subfolder: str) -> str:
        """The line that brings one folder of the repository."""
        if self.repo_id is None:
            return f"cd {LOCAL}/{subfolder}"
        return f'hf download {self.repo_id} --revision {self.revision} --include "{subfolder}/*" --local-dir {self.root}'

    def within(self, subfolder: str, name: str) -> str:
        """A file of a downloaded target."""
        return name if self.repo_id is None else f"{self.root}/{subfolder}/{name}"


def _is_named(repo: str | None) -> bool:
    """Whether this is a repository that a reader can load, and safe within quotes."""
    return repo is not None and is_repo_id(repo)


def usage_snippet(folder: Path, target: str, place: Place) -> UsageSnippet:
    """How ``target`` of the published ``folder`` is loaded.

    Raises:
        VerificationError: there is no such target, or the folder lacks a file of it.
    """
    every = registry.targets()
    if target not in every:
        raise VerificationError(f"unknown target {target!r}; valid targets: {', '.join(every)}")
    root = registry.root_at(folder) if target == registry.REFERENCE else None
    return (root or every[target]).describe(folder, place)
