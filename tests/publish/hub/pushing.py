"""A folder like a release, and what is asked of it and of the Hub."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer

from exporter.errors import PublishError
from exporter.publish.hub import Pushed, upload

TAG = "steerbake-0123456789ab"
REPOSITORY = "user/repo"
BLOBS = 4
"""Files of the release that lie outside git."""
COMMIT, TREE, PUT = "POST .*/commit/", "GET .*/tree/", "PUT /lfs/"


def paths(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]


def digests(folder: Path) -> dict[str, str]:
    return {path: hashlib.sha256((folder / path).read_bytes()).hexdigest() for path in paths(folder)}


def push(folder: Path, **options: Any) -> Pushed:
    options = {"paths": paths(folder), "message": "Publish", "tag": TAG, **options}
    return upload(folder, options.pop("repo_id", REPOSITORY), **options)


def refused(folder: Path, **options: Any) -> str:
    """What a push that must fail says."""
    with pytest.raises(PublishError) as caught:
        push(folder, **options)
    return str(caught.value)


def earlier(hub: HubServer) -> Any:
    """A repository that somebody published to before."""
    repository = hub.store.create(REPOSITORY, private=False)
    repository.write({"model.safetensors": b"unsteered", "README.md": b"old", "old/notes.txt": b"old"})
    return repository
