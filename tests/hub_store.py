"""Repositories in memory with the Hub's rules: commits, branches, tags, pull requests, and blobs by their SHA-256."""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import threading
from dataclasses import dataclass, field
from typing import Any

LFS_SUFFIXES = (".safetensors", ".onnx", ".gguf", ".bin", ".png", ".zst")
GITATTRIBUTES = "".join(
    f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES
).encode()


class Refusal(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass(frozen=True)
class Entry:
    """One file of a tree: bytes kept in git, or a pointer to a blob."""

    size: int
    sha256: str
    content: bytes | None = None

    @property
    def is_lfs(self) -> bool:
        return self.content is None

    @property
    def oid(self) -> str:
        """Git's name of what the tree holds: the bytes, or the pointer to them."""
        content = self.content if self.content is not None else self.pointer
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def pointer(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    def as_json(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = {"type": "file", "path": path, "size": self.size, "oid": self.oid}
        if self.is_lfs:
            found["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": len(self.pointer)}
        return found


def small(content: bytes) -> Entry:
    return Entry(len(content), hashlib.sha256(content).hexdigest(), content)


Tree = dict[str, Entry]


@dataclass(frozen=True)
class Commit:
    oid: str
    tree: Tree
    parent: str | None
    message: str


@dataclass
class Repository:
    """One model repository."""

    name: str
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[int, str] = field(default_factory=dict)

    def resolve(self, revision: str) -> Commit:
        """The commit that a branch, a tag, refs/pr/N or a hash means."""
        pull = revision.removeprefix("refs/pr/")
        oid = self.branches.get(revision) or self.tags.get(revision)
        if oid is None and revision.startswith("refs/pr/") and pull.isdigit():
            oid = self.pulls.get(int(pull))
        commit = self.commits.get(oid or revision)
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def add(self, tree: Tree, parent: str | None, message: str) -> Commit:
        """Makes a commit that no branch has yet."""
        listed = "".join(f"{path} {tree[path].oid}\n" for path in sorted(tree))
        text = f"{self.name}\n{parent}\n{message}\n{len(self.commits)}\n{listed}"
        commit = Commit(hashlib.sha1(text.encode()).hexdigest(), dict(tree), parent, message)
        self.commits[commit.oid] = commit
        return commit

    def write(self, files: dict[str, bytes | None], message: str = "someone else") -> Commit:
        """Somebody's commit to main; None deletes a file."""
        head = self.resolve("main")
        changed = {path: small(content) for path, content in files.items() if content is not None}
        kept = {path: entry for path, entry in head.tree.items() if path not in files}
        commit = self.add({**kept, **changed}, head.oid, message)
        self.branches["main"] = commit.oid
        return commit

    def merge(self, number: int) -> Commit:
        """Merges a pull request into main."""
        commit = self.add(
            self.commits[self.pulls[number]].tree, self.branches["main"], f"Merge pull request {number}"
        )
        self.branches["main"] = commit.oid
        return commit

    def files(self, revision: str = "main") -> dict[str, str]:
        """SHA-256 of every file, by path, .gitattributes left out."""
        tree = self.resolve(revision).tree
        return {path: entry.sha256 for path, entry in sorted(tree.items()) if path != ".gitattributes"}


class Store:
    """All repositories and blobs of one server. Every change is made under its lock: whole or not at all."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}

    def create(self, name: str, private: bool) -> Repository:
        with self.lock:
            if name in self.repositories:
                raise Refusal(409, "You already created this model repo")
            repository = Repository(name, private)
            first = repository.add({".gitattributes": small(GITATTRIBUTES)}, None, "initial commit")
            repository.branches["main"] = first.oid
            self.repositories[name] = repository
            return repository

    def take(self, oid: str, content: bytes) -> None:
        """Keeps a blob that has the name it was announced under."""
        if hashlib.sha256(content).hexdigest() != oid:
            raise Refusal(400, f"the bytes sent are not {oid}")
        with self.lock:
            self.blobs[oid] = content

    def upload_modes(
        self, repository: Repository, revision: str, request: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """What preupload answers: which file goes where, what is ignored, and what the tree has already."""
        tree = repository.resolve(revision).tree
        ignore = request.get("gitIgnore")
        if ignore is None and ".gitignore" in tree:
            ignore = (tree[".gitignore"].content or b"").decode()
        patterns = [line for line in (ignore or "").splitlines() if line]
        answers = []
        for file in request["files"]:
            path, sample = file["path"], base64.b64decode(file["sample"])
            entry = tree.get(path)
            binary = path.endswith(LFS_SUFFIXES) or b"\0" in sample or file["size"] > 10_000_000
            answer = {"path": path, "uploadMode": "lfs" if binary else "regular"}
            answer["shouldIgnore"] = any(fnmatch.fnmatch(path, pattern) for pattern in patterns)
            if entry is not None:
                answer["oid"] = entry.sha256 if entry.is_lfs else entry.oid
            answers.append(answer)
        return answers

    def commit(
        self, repository: Repository, branch: str, lines: list[dict[str, Any]], pull_request: bool
    ) -> tuple[Commit, int | None]:
        """Applies all lines or none; returns the commit, and the number of the pull request where one was asked for."""
        header = lines[0]["value"]
        with self.lock:
            if branch not in repository.branches:
                raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
            head = repository.branches[branch]
            parent = header.get("parentCommit") or head
            if parent not in repository.commits or (parent != head and not pull_request):
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            tree = dict(repository.commits[parent].tree)
            for line in lines[1:]:
                self._apply(tree, line["key"], line["value"])
            commit = repository.add(tree, parent, header["summary"])
            if not pull_request:
                repository.branches[branch] = commit.oid
                return commit, None
            number = len(repository.pulls) + 1
            repository.pulls[number] = commit.oid
            return commit, number

    def _apply(self, tree: Tree, key: str, value: dict[str, Any]) -> None:
        path = value["path"]
        if key == "file":
            tree[path] = small(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            blob = self.blobs.get(value["oid"])
            if blob is None or len(blob) != value["size"]:
                raise Refusal(
                    400, f"Your push was rejected because {path} points to a blob that is not there"
                )
            tree[path] = Entry(len(blob), value["oid"])
        elif key == "deletedFile":
            if path not in tree:
                raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
            del tree[path]
        else:
            raise Refusal(400, f"unknown operation {key}")
