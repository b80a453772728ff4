"""Killed at any stage of a push, a repository is as it was or whole, and the same command resumes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import TOKEN, Fault, HubServer
from huggingface_hub import HfApi
from huggingface_hub.errors import BadRequestError
from publish.hub.pushing import COMMIT, PUT, REPOSITORY, TAG, TREE, digests, earlier, paths, push

_PUSH = """
import sys
from pathlib import Path
from exporter.publish.hub import upload
folder = Path(sys.argv[1])
paths = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
upload(folder, "user/repo", paths=paths, message="Publish", tag=sys.argv[2])
"""
STAGES = {
    "at the start": ("preupload", 0),
    "before a blob": (PUT, 1),
    "among the parts of a blob": (PUT + "[^/]*/part/4", 0),
    "at the commit": (COMMIT, 0),
    "after the commit": (TREE, 1),
    "at the tag": ("POST .*/tag/", 0),
}


def started(hub: HubServer, release: Path) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": TOKEN,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
    return subprocess.Popen(
        [sys.executable, "-c", _PUSH, str(release), TAG], env=environment, cwd=release.parent
    )


def killed(hub: HubServer, release: Path, stage: tuple[str, int]) -> None:
    """A push that is killed when the request of a stage arrives."""
    processes: list[subprocess.Popen[bytes]] = []

    def kill() -> None:
        processes[0].kill()
        processes[0].wait()

    hub.faults = [Fault(stage[0], after=stage[1], meanwhile=kill)]
    processes.append(started(hub, release))
    assert processes[0].wait(timeout=300) == -9, "it must have come as far as the stage"


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_killed_at_any_stage_it_is_as_it_was_or_whole_and_resumes(
    hub: HubServer, release: Path, stage: tuple[str, int]
) -> None:
    repository = earlier(hub)
    before, wanted = repository.files(), digests(release)
    killed(hub, release, stage)
    assert repository.files() in (before, wanted)
    assert all(repository.files(tag) == wanted for tag in repository.tags)
    there = set(hub.store.blobs)
    hub.requests.clear()
    pushed = push(release)
    assert repository.files() == repository.files(TAG) == wanted
    assert len(repository.commits) == 3 and repository.tags == {TAG: pushed.commit}
    assert not {one.split("/")[2] for one, _ in hub.seen(PUT)} & there


def test_the_control_notices_half_a_release(hub: HubServer, release: Path) -> None:
    """One commit a file, as a loop over upload_file would do it: killed, it leaves what these tests must tell from whole."""
    repository = earlier(hub)
    before = repository.files()
    hub.faults = [Fault(COMMIT, after=2, times=10**6, status=400)]

    def one_by_one() -> None:
        for path in paths(release):
            HfApi().upload_file(path_or_fileobj=release / path, path_in_repo=path, repo_id=REPOSITORY)

    with pytest.raises(BadRequestError):
        one_by_one()
    assert repository.files() not in (before, digests(release))
