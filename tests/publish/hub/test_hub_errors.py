"""Whatever goes wrong on the way to the Hub, a repository is as it was or whole: faults by order, over real HTTP."""

from __future__ import annotations

import logging
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
from hub_server import TOKEN, Fault, HubServer
from huggingface_hub import constants
from publish.hub.pushing import BLOBS, COMMIT, PUT, REPOSITORY, TAG, TREE, digests, earlier, push, refused

from exporter.errors import PublishError
from exporter.publish import hub_errors

ENDPOINTS = (
    "GET /api/models/user/repo\\?",
    "POST .*/repos/create",
    "GET .*/refs",
    "GET .*/revision/steerbake",
    TREE,
    "POST .*/preupload/",
    "POST .*/objects/batch",
    PUT,
    "POST .*/complete",
    "POST .*/lfs/.*/verify",
    "POST .*/validate-yaml",
    COMMIT,
    "POST .*/tag/",
)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_trouble_that_passes_is_waited_out(hub: HubServer, release: Path, endpoint: str) -> None:
    troubles = [
        Fault(endpoint, status=503),
        Fault(endpoint, status=429, headers={"Retry-After": "0"}),
        Fault(endpoint, drop_after=10),
        Fault(endpoint, lose_answer=True),
    ]
    hub.faults = troubles
    pushed = push(release)
    assert all(fault.times == 0 for fault in troubles), "each of them must have happened"
    repository = hub.repository(REPOSITORY)
    assert repository.files() == digests(release) and repository.tags == {TAG: pushed.commit}
    assert len(repository.commits) == 2, "one commit besides the first, though its answer was lost"


@pytest.mark.parametrize("endpoint", [one for one in ENDPOINTS if "tag" not in one and "create" not in one])
@pytest.mark.parametrize("broken", [{"status": 500}, {"drop_after": 100}], ids=["500", "dropped"])
def test_trouble_that_stays_leaves_the_repository_as_it_was(
    hub: HubServer, release: Path, endpoint: str, broken: dict[str, Any]
) -> None:
    repository = earlier(hub)
    before = repository.resolve("main")
    hub.faults = [Fault(endpoint, times=10**6, **broken)]
    message = refused(release)
    assert "500" in message or hub.endpoint in message
    assert repository.resolve("main") == before and not repository.tags
    hub.faults = []
    push(release)
    assert repository.files(TAG) == digests(release)


def test_a_connection_dropped_in_mid_upload_costs_only_what_was_under_way(
    hub: HubServer, release: Path
) -> None:

    def until_the_others_arrived() -> None:
        deadline = time.monotonic() + 120
        while len(hub.store.blobs) < BLOBS - 1 and time.monotonic() < deadline:
            time.sleep(0.01)

    fourth = PUT + "[^/]*/part/4"
    hub.faults = [Fault(fourth, times=10**6, drop_after=1000, meanwhile=until_the_others_arrived)]
    message = refused(release)
    assert "same command" in message
    there = set(hub.store.blobs)
    assert len(there) == BLOBS - 1
    hub.faults = []
    hub.requests.clear()
    push(release)
    sent = {one.split("/")[2] for one, _ in hub.seen(PUT)}
    assert sent and not sent & there, "blobs that had arrived were sent again"
    assert hub.repository(REPOSITORY).files() == digests(release)


@pytest.mark.parametrize("endpoint", [COMMIT, "[^/]*/part/2", "GET /api/models/user/repo\\?"])
def test_a_connection_on_which_nothing_moves_is_given_up(
    hub: HubServer, release: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setattr(hub_errors, "STALL", 0.2)
    hub.faults = [Fault(endpoint, meanwhile=lambda: time.sleep(0.5))]
    push(release)
    repository = hub.repository(REPOSITORY)
    assert repository.files(TAG) == digests(release) and len(repository.commits) == 2


def test_a_tag_that_cannot_be_made_leaves_the_pinned_revision_missing(hub: HubServer, release: Path) -> None:
    """Missing fails closed: whoever loads by the tag gets an error, not an earlier release."""
    hub.faults = [Fault("POST .*/tag/", times=10**6, status=500)]
    assert "tag" in refused(release)
    repository = hub.repository(REPOSITORY)
    assert repository.files() == digests(release) and not repository.tags
    hub.faults = []
    push(release)
    assert repository.files(TAG) == digests(release)


def test_an_unknown_token_is_told_and_never_shown(
    hub: HubServer, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "hf_" + "Zz9" * 12
    monkeypatch.setenv("HF_TOKEN", other)
    message = refused(release)
    assert "401" in message and "hf auth login" in message
    assert not hub.store.repositories and other not in message


@pytest.mark.parametrize("endpoint", ["repos/create", "preupload", "batch", PUT, "commit/", "/tag/"])
@pytest.mark.parametrize("status", [400, 401, 500])
def test_no_trace_of_a_failure_shows_the_token(
    hub: HubServer, release: Path, caplog: pytest.LogCaptureFixture, endpoint: str, status: int
) -> None:
    """Not even where the server repeats it."""
    echo = f"bad header Authorization: Bearer {TOKEN}"
    hub.faults = [Fault(endpoint, times=10**6, status=status, message=echo, headers={"X-Request-Id": TOKEN})]
    said: list[str] = []
    with caplog.at_level(logging.DEBUG, logger="exporter"), pytest.raises(PublishError) as caught:
        push(release, say=said.append)
    error: BaseException | None = caught.value
    assert error.__context__ is None and error.__cause__ is None, "the request, with its headers, hangs on it"
    told = "".join(traceback.format_exception(error)) + "".join(said) + caplog.text
    assert str(status) in told and TOKEN not in told
    frames = traceback.StackSummary.extract(
        traceback.walk_tb(error.__traceback__), capture_locals=True, limit=99
    )
    ours = [frame for frame in frames if "exporter" in frame.filename]
    assert ours and not any(TOKEN in value for frame in ours for value in (frame.locals or {}).values())


def test_a_namespace_of_others_is_refused(hub: HubServer, release: Path) -> None:
    message = refused(release, repo_id="others/repo")
    assert "403" in message and "others" in message and not hub.store.repositories


def test_a_repository_of_others_is_refused_unchanged(hub: HubServer, release: Path) -> None:
    repository = hub.store.create("others/repo", private=False)
    message = refused(release, repo_id="others/repo")
    assert "403" in message and len(repository.commits) == 1 and not hub.store.blobs


def test_without_a_token_nothing_is_asked(
    hub: HubServer, release: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    assert "hf auth login" in refused(release) and not hub.requests


def test_offline_mode_is_named(hub: HubServer, release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused(release) and not hub.requests


def test_somebody_elses_commit_is_not_overwritten(hub: HubServer, release: Path) -> None:
    """They may have added what nobody has looked at; their commit stays, and the same command then replaces it knowingly."""
    repository = earlier(hub)
    hub.faults = [Fault(COMMIT, meanwhile=lambda: repository.write({"theirs.txt": b"new"}))]
    message = refused(release)
    assert "moved" in message and "main" in message
    assert (
        "theirs.txt" in repository.files()
        and repository.files()["README.md"] != digests(release)["README.md"]
    )
    assert not repository.tags
    hub.requests.clear()
    push(release)
    assert repository.files(TAG) == digests(release) and not hub.seen(PUT)


def test_a_commit_before_the_files_are_sent_is_noticed(hub: HubServer, release: Path) -> None:
    """What preupload says of the tree is then of another commit than the one that was looked at."""
    repository = earlier(hub)
    theirs = {"config.json": (release / "config.json").read_bytes(), "theirs.txt": b"new"}
    hub.faults = [Fault("preupload", meanwhile=lambda: repository.write(theirs))]
    assert "moved" in refused(release) and "theirs.txt" in repository.files()


def test_a_race_that_changed_nothing_is_run_again(hub: HubServer, release: Path) -> None:
    repository = earlier(hub)
    hub.faults = [Fault(COMMIT, meanwhile=lambda: repository.write({}))]
    pushed = push(release)
    assert repository.files() == digests(release) and repository.branches["main"] == pushed.commit


def test_two_who_publish_the_same_meet_in_one_commit(hub: HubServer, release: Path) -> None:
    hub.faults = [Fault(COMMIT, meanwhile=lambda: push(release, message="The other one"))]
    pushed = push(release)
    repository = hub.repository(REPOSITORY)
    assert repository.commits[pushed.commit].message == "The other one" and len(repository.commits) == 2
    assert repository.tags == {TAG: pushed.commit}
