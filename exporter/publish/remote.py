"""One model repository on the Hub, as it is: asked with retries, changed only in ways that may be repeated."""

from __future__ import annotations

from huggingface_hub import HfApi, ModelInfo
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile

from exporter.errors import PublishError
from exporter.publish import hub_errors
from exporter.publish.hub_errors import Say, retry
from exporter.publish.upload_manifest import RemoteFile

MAIN = "main"


class Remote:
    """A repository.

    Args:
        name: owner/name.
        say: is told about errors that may be transient.
    """

    def __init__(self, name: str, say: Say) -> None:
        self.name, self.say = name, say
        self.api = (
            HfApi()
        )  # finds endpoint and token in the usual places; none of our objects ever holds the token

    @property
    def url(self) -> str:
        return f"{self.api.endpoint}/{self.name}"

    def is_private(self) -> bool | None:
        """None for a repository that is not there, or that the token may not see."""

        def ask() -> bool | None:
            try:
                return bool(self._info(None).private)
            except RepositoryNotFoundError:
                return None

        return retry(ask, f"looking for {self.name}", self.say)

    def _info(self, revision: str | None) -> ModelInfo:
        return self.api.model_info(
            self.name, revision=revision, timeout=hub_errors.STALL, expand=["sha", "private"]
        )

    def create(self, *, private: bool) -> None:
        """Makes the repository unless it is there."""

        def make() -> None:
            # Unless asked for, visibility is left to what the owner has set for new repositories.
            self.api.create_repo(self.name, private=True if private else None, exist_ok=True)

        retry(make, f"creating {self.name}", self.say)

    def commit_of(self, revision: str) -> str | None:
        """Hash of the commit that a branch or a tag stands for; None where there is no such revision."""

        def ask() -> str | None:
            try:
                return self._info(revision).sha
            except RevisionNotFoundError:
                return None

        return retry(ask, f"asking for {revision} of {self.name}", self.say)

    def branch(self, name: str) -> str:
        """Hash of the commit at the head of a branch, which is made from main where it is missing.

        Raises:
            PublishError: the name is a tag's or a commit's, so that nothing can be committed to it.
        """
        doing = f"asking for the branches of {self.name}"
        refs = retry(lambda: self.api.list_repo_refs(self.name), doing, self.say)
        for found in refs.branches:
            if found.name == name:
                return found.target_commit
        if name == MAIN:
            raise PublishError(f"{self.url} has no branch {MAIN}; make a first commit to it")
        if self.commit_of(name) is not None:
            raise PublishError(f"{name} is a tag or a commit of {self.url}, not a branch; give a branch")
        doing = f"creating the branch {name} of {self.name}"
        retry(lambda: self.api.create_branch(self.name, branch=name, exist_ok=True), doing, self.say)
        commit = self.commit_of(name)
        if commit is None:
            raise PublishError(f"{doing}: the Hub reported success, but the branch does not exist")
        return commit

    def tree(self, revision: str) -> dict[str, RemoteFile]:
        """Every file of a revision, by path."""

        def ask() -> list[RepoFile]:
            found = self.api.list_repo_tree(self.name, recursive=True, revision=revision)
            return [one for one in found if isinstance(one, RepoFile)]

        files = retry(ask, f"listing the files of {self.name} at {revision}", self.say)
        return {
            file.path: RemoteFile(file.size, file.blob_id, None if file.lfs is None else file.lfs.sha256)
            for file in files
        }

    def mark(self, tag: str, commit: str) -> None:
        """Puts a tag on a commit, and makes sure that it is there.

        Raises:
            PublishError: the tag is on another commit.
        """

        def make() -> None:
            try:
                self.api.create_tag(self.name, tag=tag, revision=commit)
            except HfHubHTTPError as error:
                if error.response.status_code != 409:  # there already: which commit it marks is asked below
                    raise

        retry(make, f"putting the tag {tag} on {commit[:12]} of {self.name}", self.say)
        found = self.commit_of(tag)
        if found != commit:
            raise PublishError(
                f"{self.url}: the tag {tag} points to {found or 'nothing'}, not to the new commit {commit}"
            )
