"""Whatever goes wrong on the way to the Hub, a repository is as it was or whole: real client, real HTTP, faults by order."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.utils._http as transport
import pytest
from hub_server import TOKEN, Fault, HubServer
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import BadRequestError

from exporter.errors import PublishError
from exporter.publish import offered, trouble
from exporter.publish.hub import Pushed, upload

TAG = "steerbake-0123456789ab"
REPOSITORY = "user/repo"
BLOBS = 4
"""Files of the release that lie outside git."""
COMMIT, TREE, PUT = "POST .*/commit/", "GET .*/tree/", "PUT /lfs/"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trouble, "WAITS", (0.01,) * 5)
    monkeypatch.setattr(transport, "time", SimpleNamespace(sleep=lambda _: None))


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A folder laid out like a release: text for git, blobs in one piece and in parts, an empty file."""
    folder = tmp_path / "release"
    for path, content in {
        "README.md": b"---\nlicense: mit\n---\nA model.\n",
        "config.json": b"{}",
        "empty.txt": b"",
        ".eval_results/forget.yaml": b"- value: 0.0\n",
        "model-00001-of-00001.safetensors": bytes(range(256)) * 1200,
        "steering.safetensors": b"\0steering",
        "onnx/onnx/model.onnx": b"\0graph" * 100,
        "plots/leak.png": b"\x89PNG\0",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


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


def test_everything_arrives_in_one_commit_with_a_tag(hub: HubServer, release: Path) -> None:
    said: list[str] = []
    pushed = push(release, say=said.append)
    repository = hub.repository(REPOSITORY)
    assert repository.files() == repository.files(TAG) == digests(release)
    assert repository.tags == {TAG: pushed.commit} and repository.branches == {"main": pushed.commit}
    assert len(repository.commits) == 2 and repository.commits[pushed.commit].message == "Publish"
    assert pushed == Pushed(REPOSITORY, pushed.commit, f"{hub.endpoint}/user/repo/tree/{TAG}", TAG, TAG, None)
    assert len(hub.seen(PUT + "[^/]*/part/")) == 5, "the large file went in parts"
    assert any("sending 8 of 8 files" in line for line in said)


def test_a_second_push_sends_and_commits_nothing_and_makes_a_missing_tag(
    hub: HubServer, release: Path
) -> None:
    first = push(release, tag=None)
    assert first.revision == "main" and first.tag is None
    hub.requests.clear()
    again = push(release)
    assert again.commit == first.commit and hub.repository(REPOSITORY).tags == {TAG: first.commit}
    assert not hub.seen(f"{PUT}|preupload|{COMMIT}")


def test_what_the_folder_no_longer_has_goes_in_the_same_commit(hub: HubServer, release: Path) -> None:
    """A model.safetensors left over would win over the index and run unsteered."""
    repository = earlier(hub)
    push(release)
    assert repository.files() == digests(release)
    assert ".gitattributes" in repository.resolve("main").tree
    assert len(hub.seen(COMMIT)) == 1


def test_trees_of_more_than_one_page_are_read_whole(hub: HubServer, release: Path) -> None:
    hub.page = 2
    repository = earlier(hub)
    push(release)
    assert repository.files() == digests(release)


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
    assert "does not send again" in message
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
    monkeypatch.setattr(trouble, "STALL", 0.2)
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
    assert "moved" in message and "meanwhile" in message
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


def test_a_pull_request_leaves_main_alone_and_gets_its_tag_after_the_merge(
    hub: HubServer, release: Path
) -> None:
    repository = earlier(hub)
    before = repository.resolve("main")
    pushed = push(release, create_pr=True)
    assert repository.resolve("main") == before and not repository.tags
    assert pushed.revision == "refs/pr/1" and pushed.tag is None
    assert pushed.pr_url == f"{hub.endpoint}/user/repo/discussions/1"
    assert repository.files("refs/pr/1") == digests(release)
    merged = repository.merge(1)
    assert push(release).commit == merged.oid and repository.tags == {TAG: merged.oid}


def test_a_pull_request_whose_answer_is_lost_is_not_opened_twice(hub: HubServer, release: Path) -> None:
    repository = earlier(hub)
    hub.faults = [Fault(COMMIT, lose_answer=True)]
    assert "discussions" in refused(release, create_pr=True)
    assert list(repository.pulls) == [1]


def test_what_a_pull_request_cannot_be_is_refused(hub: HubServer, release: Path) -> None:
    assert "without --pr" in refused(release, create_pr=True)
    assert "leave the revision away" in refused(release, create_pr=True, revision="other")
    earlier(hub)
    push(release)
    pushed = push(release, create_pr=True)
    assert pushed.pr_url is None and not hub.repository(REPOSITORY).pulls


def test_private_is_never_less_than_asked_for(hub: HubServer, release: Path) -> None:
    push(release, private=True)
    assert hub.repository(REPOSITORY).private
    push(release)
    assert hub.repository(REPOSITORY).private, "a push without --private opened it"
    repository = hub.store.create("user/open", private=False)
    assert "public" in refused(release, repo_id="user/open", private=True)
    assert not repository.files()


def test_a_branch_is_made_and_main_left_alone(hub: HubServer, release: Path) -> None:
    repository = earlier(hub)
    before = repository.resolve("main")
    pushed = push(release, revision="trials/one")
    assert repository.resolve("main") == before and repository.tags == {TAG: pushed.commit}
    assert repository.files("trials/one") == digests(release)
    assert "no branch" in refused(release, revision=TAG)


def test_a_tag_is_never_moved(hub: HubServer, release: Path) -> None:
    """Whoever pinned it would run code that they never read."""
    first = push(release)
    repository = hub.repository(REPOSITORY)
    (release / "config.json").write_text('{"changed": true}')
    message = refused(release)
    assert "config.json" in message and repository.branches == {"main": first.commit}
    (release / "config.json").write_text("{}")
    (release / "README.md").write_text("a better card")
    assert "README.md" in refused(release)
    second = push(release, describes=lambda path: path == "README.md")
    assert second.commit == repository.branches["main"] != first.commit == repository.tags[TAG]
    assert second.revision == TAG


def test_a_gitignore_keeps_nothing_out(hub: HubServer, release: Path) -> None:
    earlier(hub).write({".gitignore": b"*.safetensors\n*.md\n"})
    push(release)
    assert hub.repository(REPOSITORY).files() == digests(release)


def test_a_hub_that_ignores_files_all_the_same_gets_no_commit(
    hub: HubServer, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = hub.store.upload_modes
    monkeypatch.setattr(
        hub.store,
        "upload_modes",
        lambda *call: [{**one, "shouldIgnore": one["path"] == "config.json"} for one in modes(*call)],
    )
    assert "config.json" in refused(release)
    assert not hub.repository(REPOSITORY).files()


def test_a_commit_that_is_not_what_was_sent_gets_no_tag(
    hub: HubServer, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = hub.store._apply

    def forgetful(tree: Any, key: str, value: Any) -> None:
        if value["path"] != "steering.safetensors":
            apply(tree, key, value)

    monkeypatch.setattr(hub.store, "_apply", forgetful)
    assert "steering.safetensors" in refused(release)
    assert not hub.repository(REPOSITORY).tags


@pytest.mark.parametrize("path", ["config.json", "model-00001-of-00001.safetensors"])
@pytest.mark.parametrize("when", ["preupload", PUT, "POST .*/lfs/.*/verify"])
def test_a_file_written_to_during_the_upload_is_not_committed(
    hub: HubServer, release: Path, monkeypatch: pytest.MonkeyPatch, path: str, when: str
) -> None:
    monkeypatch.setattr(offered, "_SMALL", 1000)
    hub.faults = [Fault(when, meanwhile=lambda: (release / path).write_bytes(b"changed" * 9999))]
    assert f"{path} changed" in refused(release)
    assert not hub.repository(REPOSITORY).files()


def test_a_small_file_written_to_at_the_last_moment_goes_as_it_was_read(
    hub: HubServer, release: Path
) -> None:
    wanted = digests(release)
    hub.faults = [Fault("validate-yaml", meanwhile=lambda: (release / "config.json").write_bytes(b"late"))]
    push(release)
    assert hub.repository(REPOSITORY).files() == wanted


def test_a_card_that_the_hub_refuses_is_not_committed(hub: HubServer, release: Path) -> None:
    (release / "README.md").write_text("---\nlanguage: en\n---\n# a card\n")
    assert '"license" is required' in refused(release)
    assert not hub.repository(REPOSITORY).files()
    (release / "README.md").write_text("---\nlicense: mit\n---\n# a card\n")
    push(release)
    assert hub.repository(REPOSITORY).files() == digests(release)


def test_a_file_with_the_token_is_not_sent(hub: HubServer, release: Path) -> None:
    for start in (0, (1 << 20) - 20):  # the second lies across two reads
        (release / "notes.bin").write_bytes(b"x" * start + TOKEN.encode() + b"y" * 10)
        message = refused(release)
        assert "notes.bin" in message and TOKEN not in message
    assert not hub.requests


def test_paths_that_are_not_plain_files_of_the_folder_are_refused(
    hub: HubServer, release: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside.txt").write_text("outside")
    (release / "link.txt").symlink_to(tmp_path / "outside.txt")
    (release / "linked").symlink_to(tmp_path)
    for path in (
        "../outside.txt",
        "missing.json",
        "link.txt",
        "linked/outside.txt",
        ".gitattributes",
        "onnx",
        "",
    ):
        assert "cannot be published" in refused(release, paths=["config.json", path])
    assert "no file" in refused(release, paths=[])
    assert "owner/name" in refused(release, repo_id="repo")
    assert not hub.requests


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
