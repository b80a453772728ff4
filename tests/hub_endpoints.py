"""What the Hub answers at each endpoint that huggingface_hub calls to publish and to load a model."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hub_store import Refusal, Repository

if TYPE_CHECKING:
    from hub_server import HubServer

Answer = tuple[int, Any, dict[str, str]]
"""Status, bytes or what becomes JSON, headers."""
NAME = r"(?P<name>[\w.-]+/[\w.-]+)"


@dataclass
class Call:
    """One request as routes see it."""

    server: HubServer
    user: str | None
    query: dict[str, list[str]]
    body: bytes
    headers: Any
    found: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def repository(self, *, write: bool = False) -> Repository:
        """The repository asked for; whoever may not see it is told, like on the Hub, that there is none."""
        name = self.found["name"]
        repository = self.server.store.repositories.get(name)
        owner = name.split("/", maxsplit=1)[0]
        if repository is None or (repository.private and self.user != owner):
            if self.user is None:
                raise Refusal(401, "Invalid username or password.")
            raise Refusal(404, "Repository not found", "RepoNotFound")
        if write and self.user is None:
            raise Refusal(401, "Invalid username or password.")
        if write and self.user != owner:
            raise Refusal(403, "You don't have the rights to write to this repo")
        return repository


def create(call: Call) -> Answer:
    asked = call.json
    owner = asked.get("organization") or call.user
    if call.user is None:
        raise Refusal(401, "Invalid username or password.")
    if owner != call.user:
        raise Refusal(403, f"You don't have the rights to create a model under the namespace {owner!r}")
    name = f"{owner}/{asked['name']}"
    about = {"url": f"{call.server.endpoint}/{name}", "name": name}
    if name in call.server.store.repositories:
        return 409, {"error": "You already created this model repo", **about}, {}
    call.server.store.create(name, asked.get("visibility") == "private")
    return 200, about, {}


def info(call: Call) -> Answer:
    repository = call.repository()
    commit = repository.resolve(call.found.get("revision") or "main")
    siblings = [{"rfilename": path} for path in sorted(commit.tree)]
    about = {"id": repository.name, "sha": commit.oid, "private": repository.private, "siblings": siblings}
    return 200, about, {}


def tree(call: Call) -> Answer:
    commit = call.repository().resolve(call.found["revision"])
    inside = f"{call.found['path']}/" if call.found.get("path") else ""
    paths = [path for path in sorted(commit.tree) if path.startswith(inside)]
    if inside and not paths:
        raise Refusal(404, f"{inside} does not exist", "EntryNotFound")
    if call.query.get("recursive", ["false"])[0].lower() == "true":
        found = [commit.tree[path].as_json(path) for path in paths]
    else:
        heads = dict.fromkeys(inside + path.removeprefix(inside).split("/", maxsplit=1)[0] for path in paths)
        found = [
            commit.tree[p].as_json(p)
            if p in commit.tree
            else {"type": "directory", "path": p, "oid": "0" * 40}
            for p in heads
        ]
    start = int(call.query.get("cursor", ["0"])[0])
    headers = {}
    if start + call.server.page < len(found):
        options = "&".join(
            f"{key}={call.query[key][0]}" for key in ("recursive", "expand") if key in call.query
        )
        url = f"{call.server.endpoint}/api/models/{call.found['name']}/tree/{commit.oid}"
        headers["Link"] = f'<{url}?{options}&cursor={start + call.server.page}>; rel="next"'
    return 200, found[start : start + call.server.page], headers


def refs(call: Call) -> Answer:
    repository = call.repository()

    def listed(kind: str, places: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": oid} for n, oid in places.items()]

    heads, tags = listed("heads", repository.branches), listed("tags", repository.tags)
    return 200, {"branches": heads, "converts": [], "tags": tags, "pullRequests": []}, {}


def preupload(call: Call) -> Answer:
    pull_request = "create_pr" in call.query
    repository = call.repository(write=not pull_request)
    return 200, {"files": call.server.store.upload_modes(repository, call.found["revision"], call.json)}, {}


def batch(call: Call) -> Answer:
    call.repository()
    if call.user is None:
        raise Refusal(401, "Invalid username or password.")
    objects = [_upload_action(call, one["oid"], one["size"]) for one in call.json["objects"]]
    return 200, {"transfer": "basic", "objects": objects}, {}


def _upload_action(call: Call, oid: str, size: int) -> dict[str, Any]:
    server, answer = call.server, {"oid": oid, "size": size}
    if oid in server.store.blobs:
        return answer
    blob = f"{server.endpoint}/lfs/{oid}"
    verify = {"href": f"{blob}/verify"}
    if size <= server.multipart:
        return {**answer, "actions": {"upload": {"href": blob}, "verify": verify}}
    count = -(-size // server.multipart)
    header = {"chunk_size": str(server.multipart)} | {str(n): f"{blob}/part/{n}" for n in range(1, count + 1)}
    return {**answer, "actions": {"upload": {"href": f"{blob}/complete", "header": header}, "verify": verify}}


def put_blob(call: Call) -> Answer:
    call.server.store.take(call.found["oid"], call.body)
    return 200, None, {}


def put_part(call: Call) -> Answer:
    call.server.parts.setdefault(call.found["oid"], {})[int(call.found["part"])] = call.body
    return 200, None, {"ETag": f'"{hashlib.md5(call.body).hexdigest()}"'}


def complete(call: Call) -> Answer:
    parts = call.server.parts.get(call.found["oid"], {})
    named = [(part["partNumber"], part["etag"].strip('"')) for part in call.json["parts"]]
    held = [(n, hashlib.md5(content).hexdigest()) for n, content in sorted(parts.items())]
    if named != held:
        raise Refusal(400, "these are not the parts that were sent")
    call.server.store.take(call.found["oid"], b"".join(parts[n] for n in sorted(parts)))
    call.server.parts.pop(call.found["oid"], None)
    return 200, {}, {}


def verify(call: Call) -> Answer:
    blob = call.server.store.blobs.get(call.found["oid"])
    if blob is None or len(blob) != call.json["size"]:
        raise Refusal(404, "no such blob")
    return 200, {}, {}


def validate_yaml(call: Call) -> Answer:
    """Refuses a card without an end of its metadata, or without a licence in it."""
    content, wrong = call.json["content"], list[str]()
    if content.startswith("---\n"):
        head, end, _ = content[4:].partition("\n---")
        wrong += [] if end else ["the metadata has no end"]
        wrong += [] if "license:" in head else ['"license" is required']
    return 400 if wrong else 200, {"errors": [{"message": one} for one in wrong], "warnings": []}, {}


def commit(call: Call) -> Answer:
    pull_request = "create_pr" in call.query
    repository = call.repository(write=not pull_request)
    if call.user is None:
        raise Refusal(401, "Invalid username or password.")
    lines = [json.loads(line) for line in call.body.splitlines()]
    done, number = call.server.store.commit(repository, call.found["revision"], lines, pull_request)
    url = f"{call.server.endpoint}/{repository.name}"
    pull_url = f"{url}/discussions/{number}" if number else None
    return (
        200,
        {"commitUrl": f"{url}/commit/{done.oid}", "commitOid": done.oid, "pullRequestUrl": pull_url},
        {},
    )


def tag(call: Call) -> Answer:
    repository = call.repository(write=True)
    name, target = call.json["tag"], repository.resolve(call.found["revision"])
    if name in repository.tags:
        raise Refusal(409, "Tag already exists")
    repository.tags[name] = target.oid
    return 200, {}, {}


def branch(call: Call) -> Answer:
    repository = call.repository(write=True)
    if call.found["revision"] in repository.branches:
        raise Refusal(409, "Reference already exists")
    start = call.json.get("startingPoint") or "main" if call.body else "main"
    repository.branches[call.found["revision"]] = repository.resolve(start).oid
    return 200, {}, {}


def resolve(call: Call) -> Answer:
    repository = call.repository()
    found = repository.resolve(call.found["revision"])
    entry = found.tree.get(call.found["path"])
    if entry is None:
        missing = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": found.oid}
        return 404, {"error": "Entry not found"}, missing
    content = entry.content if entry.content is not None else call.server.store.blobs[entry.sha256]
    headers = {"ETag": f'"{entry.sha256 if entry.is_lfs else entry.oid}"', "X-Repo-Commit": found.oid}
    if entry.is_lfs:
        headers |= {"X-Linked-ETag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", call.headers.get("Range") or "")
    if wanted is None:
        return 200, content, headers
    start, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
    headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
    return 206, content[start : end + 1], headers


MODEL, REVISION = rf"/api/models/{NAME}", r"(?P<revision>[^/]+)"
BLOB = r"/lfs/(?P<oid>[0-9a-f]{64})"
ROUTES: list[tuple[str, str, Callable[[Call], Answer]]] = [
    ("POST", "/api/repos/create", create),
    ("POST", "/api/validate-yaml", validate_yaml),
    ("GET", MODEL, info),
    ("GET", f"{MODEL}/revision/{REVISION}", info),
    ("GET", f"{MODEL}/refs", refs),
    ("GET", rf"{MODEL}/tree/{REVISION}(?:/(?P<path>.+))?", tree),
    ("POST", f"{MODEL}/preupload/{REVISION}", preupload),
    ("POST", f"{MODEL}/commit/{REVISION}", commit),
    ("POST", f"{MODEL}/tag/{REVISION}", tag),
    ("POST", f"{MODEL}/branch/{REVISION}", branch),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/batch", batch),
    ("PUT", BLOB, put_blob),
    ("PUT", rf"{BLOB}/part/(?P<part>\d+)", put_part),
    ("POST", f"{BLOB}/complete", complete),
    ("POST", f"{BLOB}/verify", verify),
    ("GET", rf"/{NAME}/resolve/{REVISION}/(?P<path>.+)", resolve),
    ("HEAD", rf"/{NAME}/resolve/{REVISION}/(?P<path>.+)", resolve),
]
