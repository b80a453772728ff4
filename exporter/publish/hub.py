"""Upload to the Hub: blobs first, then everything in one commit, then a look at what the repository holds, then the tag.

A repository is therefore unchanged or complete. Loading by the tag gives complete files or an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from exporter.errors import PublishError
from exporter.publish import hub_errors
from exporter.publish.hub_errors import (
    HUB_ERRORS,
    Say,
    is_transient,
    known_token,
    no_stalling,
    pause_before,
    publish_error,
    retry,
    status_of,
    url_of,
)
from exporter.publish.remote import MAIN, Remote
from exporter.publish.upload_manifest import OF_THE_HUB, RemoteFile, UploadManifest

Operation = CommitOperationAdd | CommitOperationDelete
_UNCHANGED = "nothing was published; run the same command again to resume: files that are already uploaded are not sent again"
_RACE = 412


@dataclass(frozen=True)
class Pushed:
    """What was published, and where.

    Args:
        repo_id: owner/name.
        commit: hash of the commit that holds exactly the files offered.
        url: where people see it.
        revision: what to load: the tag where there is one, else the branch or refs/pr/N.
        tag: what pins it; it may mark an earlier commit that differs in describing files only. None for a pull request, or
            where none was asked for.
        pr_url: the pull request; None where there is none.
    """

    repo_id: str
    commit: str
    url: str
    revision: str
    tag: str | None
    pr_url: str | None


def upload(
    folder: Path,
    repo_id: str,
    *,
    paths: Sequence[str],
    message: str,
    tag: str | None,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    describes: Callable[[str], bool] = lambda _: False,
    sealed: Mapping[str, str] | None = None,
    say: Say = lambda _: None,
) -> Pushed:
    """Makes a repository hold exactly these files of a folder, in one commit, and marks it with a tag.

    The same call can be repeated after an interruption: uploaded files are not sent again, a repository that contains the
    files already gets no further commit, and a missing tag is made. Files that the repository has and the folder has not are
    deleted in the same commit: Transformers would prefer a stale ``model.safetensors`` to our index, and run unsteered.

    Args:
        folder: the release.
        repo_id: owner/name; made if missing.
        paths: every file to publish, relative to ``folder``, with forward slashes.
        message: first line of the commit.
        tag: put on the commit once it is known to be whole. A tag that is there is never moved.
        private: make the repository private; one that is there and public is refused.
        revision: branch to commit to, made if missing; main by default.
        create_pr: open a pull request to main instead; it gets no tag.
        describes: whether a path only describes the others, and may differ where the tag is on an earlier commit.
        sealed: hex SHA-256 by path that files must have when they are read for the upload.
        say: is called with each progress line.

    Raises:
        PublishError: states what failed, the state of the repository, and the fix.
    """
    _check(repo_id, revision, create_pr)
    say(f"reading {len(paths)} files")
    manifest = UploadManifest.read(folder, paths, known_token)
    manifest.check_sealed(sealed or {})
    remote, branch = Remote(repo_id, say), revision or MAIN
    with no_stalling():
        _open(remote, private=private, create_pr=create_pr)
        head = remote.branch(branch)
        marked = None if tag is None or create_pr else _marked(remote, tag, manifest, describes)
        publication = _Publication(remote, manifest, branch, head, message)
        if create_pr:
            return publication.propose()
        commit = publication.commit()
        if tag is not None and marked is None:
            remote.mark(tag, commit)
    return Pushed(repo_id, commit, f"{remote.url}/tree/{tag or branch}", tag or branch, tag, None)


def _check(repo_id: str, revision: str | None, create_pr: bool) -> None:
    """Refuses what cannot go well before anything is read."""
    owner, _, name = repo_id.partition("/")
    if not owner or not name or "/" in name:
        raise PublishError(f"{repo_id!r} is not the name of a Hub repository; use the form owner/name")
    if create_pr and revision not in (None, MAIN):
        raise PublishError(f"a pull request is made against {MAIN}; remove --revision")
    if known_token() is None:
        raise PublishError(
            "no Hub token: log in with `hf auth login`, or set HF_TOKEN to a token with write access"
        )


def _open(remote: Remote, *, private: bool, create_pr: bool) -> None:
    """Creates the repository if needed, and checks that it is not more public than requested."""
    found = remote.is_private()
    if found is None and create_pr:
        raise PublishError(
            f"the repository {remote.url} does not exist or your token has no access to it; push without --pr"
        )
    if found is None:
        remote.create(private=private)
        found = remote.is_private()
    if found is None:
        raise PublishError(f"{remote.url} exists, but your token has no access to it; nothing was published")
    if private and not found:
        raise PublishError(
            f"{remote.url} is public; nothing was published. Make it private in its settings, or push without --private"
        )


def _marked(
    remote: Remote, tag: str, manifest: UploadManifest, describes: Callable[[str], bool]
) -> str | None:
    """The commit that has the tag already; None where the tag is free.

    Raises:
        PublishError: it marks other files. It is not moved: users who pinned it would get other code.
    """
    commit = remote.commit_of(tag)
    if commit is None:
        return None
    other = [path for path in manifest.differences(remote.tree(commit)) if not describes(path)]
    if other:
        raise PublishError(
            f"{remote.url}: the tag {tag} already exists at {commit[:12]}, where these files differ: {_listed(other)}. Nothing was "
            "published, because a tag must not change for users who pinned it. Push to another repository, or delete the tag on the Hub "
            "if nobody uses it"
        )
    return commit


class _Publication:
    """One upload on its way into one branch."""

    def __init__(
        self, remote: Remote, manifest: UploadManifest, branch: str, head: str, message: str
    ) -> None:
        self.remote, self.manifest, self.branch, self.head, self.message = (
            remote,
            manifest,
            branch,
            head,
            message,
        )

    def commit(self) -> str:
        """The commit at the head of the branch that holds exactly what is offered; made if need be."""
        before = self.remote.tree(self.head)
        if not self.manifest.differences(before):
            self.remote.say(f"{self.remote.name} already contains these files")
            return self.head
        operations = self._sent(before, create_pr=False)
        commit = self._committed(operations, before)
        self._make_sure(commit, commit)
        return commit

    def propose(self) -> Pushed:
        """A pull request to main; none where main holds the files already."""
        remote = self.remote
        before = remote.tree(self.head)
        if not self.manifest.differences(before):
            remote.say(f"{remote.name} already contains these files; no pull request is needed")
            return Pushed(remote.name, self.head, remote.url, self.branch, None, None)
        operations = self._sent(before, create_pr=True)
        # Only a refused request is made again: a second one after a lost answer would open a second pull request.
        done = retry(
            lambda: remote.api.create_commit(
                remote.name,
                operations,
                commit_message=self.message,
                parent_commit=self.head,
                create_pr=True,
            ),
            f"opening a pull request (check whether {remote.url}/discussions has it before you try again)",
            remote.say,
            again=lambda error: status_of(error) == 429,
        )
        if done.pr_url is None or done.pr_revision is None:
            raise PublishError(f"{remote.url}: the Hub made the commit {done.oid} but no pull request for it")
        self._make_sure(done.pr_revision, done.oid)
        return Pushed(remote.name, done.oid, done.pr_url, done.pr_revision, None, done.pr_url)

    def _sent(self, before: dict[str, RemoteFile], *, create_pr: bool) -> list[Operation]:
        """Sends the blobs that the Hub has not; returns what the commit is to do."""
        files, remote = self.manifest.files, self.remote
        additions = [
            _addition(path, self.manifest) for path in files if not files[path].is_(before.get(path))
        ]
        stale = sorted(set(before) - set(files) - set(OF_THE_HUB))
        remote.say(f"sending {len(additions)} of {len(files)} files to {remote.url}")
        try:
            self._send(additions, create_pr=create_pr)
        finally:
            self.manifest.check_unchanged()  # explains a refused blob too
        if ignored := [one.path_in_repo for one in additions if getattr(one, "_should_ignore", False)]:
            raise PublishError(
                f"{remote.url}: its .gitignore excludes {_listed(ignored)}; delete the .gitignore there. {_UNCHANGED}"
            )
        if stale:
            remote.say(f"deleting files that the folder no longer contains: {_listed(stale)}")
        return [*additions, *(CommitOperationDelete(path, is_folder=False) for path in stale)]

    def _send(self, additions: list[CommitOperationAdd], *, create_pr: bool) -> None:
        """Sends blobs that the Hub has not.

        It is given rules that ignore nothing: a .gitignore in the repository would silently keep files out of the commit.
        """
        remote = self.remote
        retry(
            lambda: remote.api.preupload_lfs_files(
                remote.name,
                additions,
                revision=self.branch,
                create_pr=create_pr,
                gitignore_content="# nothing\n",
                free_memory=False,
            ),
            f"sending files to {remote.name} ({_UNCHANGED})",
            remote.say,
            again=_with_fresh_addresses,
        )

    def _committed(self, operations: list[Operation], before: dict[str, RemoteFile]) -> str:
        """The hash of the commit, once the Hub has made it.

        An answer may be lost and the commit be made all the same, and somebody may commit meanwhile. So after any error the
        branch is checked: a head with the offered files is the commit; a head with the previous files allows another
        attempt; anything else is somebody else's work, and stays.
        """
        remote, waits = self.remote, iter(hub_errors.WAITS)
        while True:
            try:
                done = remote.api.create_commit(
                    remote.name,
                    operations,
                    commit_message=self.message,
                    revision=self.branch,
                    parent_commit=self.head,
                )
            except HUB_ERRORS as error:
                failure = publish_error(error, f"committing to {remote.name}")
                again = is_transient(error) or status_of(error) == _RACE
                pause = pause_before(error, next(waits, None)) if again else None
            else:
                return done.oid
            now = self._head_after(failure)
            if now != self.head:
                found = remote.tree(now)
                if not self.manifest.differences(found):
                    return now
                if found != before:
                    raise PublishError(
                        f"{remote.url}: {self.branch} moved from {self.head[:12]} to {now[:12]} during the upload, to files that are "
                        "neither the previous ones nor these. Inspect it; running the same command again replaces it, and does not send "
                        "uploaded files again"
                    )
                self.head = now
            if pause is None:
                raise PublishError(f"{failure}; {_UNCHANGED}")
            remote.say(f"{failure}; trying again in {pause:g} s")
            time.sleep(pause)

    def _head_after(self, failure: PublishError) -> str:
        try:
            return self.remote.branch(self.branch)
        except PublishError as error:
            unknown = f"{failure}; and then {error}. It is not known whether the commit was made (it is complete or absent); running the same"
            raise PublishError(f"{unknown} command again shows it") from None

    def _make_sure(self, revision: str, commit: str) -> None:
        """Raises PublishError where a commit does not hold exactly the files offered."""
        wrong = self.manifest.differences(self.remote.tree(revision))
        if wrong:
            raise PublishError(
                f"{self.remote.url}: the commit {commit} differs from what was sent: {_listed(wrong)}. It was not tagged, so no pinned "
                "load can reach it; run the same command to try again"
            )


def _addition(path: str, manifest: UploadManifest) -> CommitOperationAdd:
    file = manifest.files[path]
    operation = CommitOperationAdd(path, str(file.place) if file.content is None else file.content)
    operation.upload_info.sha256 = bytes.fromhex(file.sha256)  # else large files would be read once more
    return operation


def _with_fresh_addresses(error: BaseException) -> bool:
    """Whether a blob was refused where it was sent: the address may have expired, or the answer to the last part been lost.

    What passes by itself is not asked about here: huggingface_hub has tried each request again already.
    """
    status, url = status_of(error), url_of(error)
    return (
        status is not None
        and 400 <= status < 500
        and "/preupload/" not in url
        and "/objects/batch" not in url
    )


def _listed(paths: Sequence[str], most: int = 8) -> str:
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(paths[:most]) + more
