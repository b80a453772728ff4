"""`python -m benchmarks.earlier_code [--check]`: adds the code of every version in the history to exporter/earlier_code.json.

Read is every commit that HEAD contains, since the formats of today (`steerbake/2`, `steerbake-onnx/2`): what it put into checkpoints and
exported folders. Digests are only ever added, and sorted, so that the same history gives the same file. `--check` writes nothing, and
exits with 1 where something is missing.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from exporter.earlier_code import CHECKPOINT, DIGESTS, MODELING, RUNNER, digest_of_bytes, version_digest
from steer_modules.template import with_modules

ROOT = Path(__file__).resolve().parents[1]
CARRIED = "steer_modules"
RUNNER_FILES = {
    "steerbake_graph.py": "exporter/onnx_graph.py",
    "steerbake_runner.py": "exporter/targets/onnx_runner.py",
}
"""The code of folders of graphs, by its name there, and where it is from."""
FORMATS = {
    CHECKPOINT: (f"{CARRIED}/schema.py", 'FORMAT = "steerbake/2"'),
    RUNNER: (RUNNER_FILES["steerbake_runner.py"], 'FORMAT = "steerbake-onnx/2"'),
}
"""The file and line of a commit that say that its folders are still read."""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="Write nothing; exit 1 where something is missing."
    )
    arguments = parser.parse_args()
    known = json.loads(DIGESTS.read_text(encoding="utf-8")) if DIGESTS.is_file() else {}
    found = known
    for commit in commits():
        for kind, one in code_of(commit).items():
            found = added(found, kind, one)
    new = sum(len(found[kind]["versions"]) - len(known.get(kind, {}).get("versions", ())) for kind in found)
    if found == known:
        print(f"{DIGESTS.name} has every version in the history")
    elif arguments.check:
        raise SystemExit(f"{DIGESTS.name} lacks {new} versions; run python -m benchmarks.earlier_code")
    else:
        DIGESTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{new} versions were added to {DIGESTS.name}")


def commits() -> Iterator[str]:
    """Every commit that HEAD contains, the first one first."""
    if git("rev-parse", "--is-shallow-repository").strip() == b"true":
        raise SystemExit("this clone lacks a part of the history; run git fetch --unshallow")
    yield from git("rev-list", "--reverse", "--topo-order", "HEAD").decode().split()


def code_of(commit: str) -> dict[str, dict[str, Any]]:
    """What a commit writes into each kind of folder that is still read: ``files`` (digest by name), ``version``, and ``template``."""
    blobs = dict(blobs_of(commit))
    found: dict[str, dict[str, Any]] = {}
    if is_read(blobs, CHECKPOINT):
        names = literal(blobs[f"{CARRIED}/files.py"], "TRAVELLING")
        template = literal(blobs[f"{CARRIED}/template.py"], "_TEMPLATE")
        files = {name: digest(blobs[f"{CARRIED}/{name}"]) for name in names}
        filled = digest_of_bytes(with_modules(template, names).encode("utf-8"))
        version = version_digest({**files, MODELING: filled})
        found[CHECKPOINT] = {"files": files, "version": version, "template": template}
    if is_read(blobs, RUNNER):
        files = {name: digest(blobs[source]) for name, source in RUNNER_FILES.items() if source in blobs}
        found[RUNNER] = {"files": files, "version": version_digest(files)}
    return found


def added(known: Mapping[str, Any], kind: str, one: Mapping[str, Any]) -> dict[str, Any]:
    """The content of the data file with one version more."""
    before = known.get(kind, {})
    files = {name: set(digests) for name, digests in before.get("files", {}).items()}
    for name, value in one["files"].items():
        files.setdefault(name, set()).add(value)
    after = {
        "files": {name: sorted(files[name]) for name in sorted(files)},
        "versions": sorted({*before.get("versions", ()), one["version"]}),
    }
    if "template" in one:
        lines = one["template"].split("\n")
        after["templates"] = sorted([one for one in before.get("templates", ()) if one != lines] + [lines])
    return {**known, kind: after}


def is_read(blobs: Mapping[str, str], kind: str) -> bool:
    """Whether folders that a commit writes are of the format that is read today."""
    path, line = FORMATS[kind]
    return path in blobs and line in content(blobs[path]).decode("utf-8").splitlines()


def literal(blob: str, name: str) -> Any:
    """The value of a module's constant: a literal, or the text that a template is made of."""
    for node in ast.parse(content(blob)).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            value = node.value
            return ast.literal_eval(value.args[0] if isinstance(value, ast.Call) else value)
    raise SystemExit(f"{blob} has no constant {name}")


def blobs_of(commit: str) -> Iterator[tuple[str, str]]:
    """Path and blob of every file that may travel."""
    for line in git("ls-tree", "-r", commit, "--", CARRIED, *RUNNER_FILES.values()).decode().splitlines():
        about, _, path = line.partition("\t")
        yield path, about.split()[2]


def digest(blob: str) -> str:
    """Hex SHA-256 of a file."""
    return digest_of_bytes(content(blob))


@cache
def content(blob: str) -> bytes:
    """What is in a file."""
    return git("cat-file", "blob", blob)


def git(*arguments: str) -> bytes:
    """What git prints of this repository."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


if __name__ == "__main__":
    main()
