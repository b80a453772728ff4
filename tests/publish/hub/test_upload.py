"""What a push makes of a repository, and what it refuses to send: real client, real HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hub_server import TOKEN, Fault, HubServer
from publish.hub.pushing import COMMIT, PUT, REPOSITORY, TAG, digests, earlier, push, refused

from exporter.publish import upload_manifest
from exporter.publish.hub import Pushed


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
    assert "--revision" in refused(release, create_pr=True, revision="other")
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
    assert "not a branch" in refused(release, revision=TAG)


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
    monkeypatch.setattr(upload_manifest, "_SMALL", 1000)
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
        told = refused(release, paths=["config.json", path])
        assert f"{path!r} is not" in told or (path and f"{path} is " in told)
    assert "no file" in refused(release, paths=[])
    assert "owner/name" in refused(release, repo_id="repo")
    assert not hub.requests
