"""What `steerbake publish --dry-run` does more than once: runs opened, models loaded, rows generated, files hashed.

    python -m benchmarks.publish_cost OUT.json [--recipe RECIPE] [--set A.B=C] [--run DIR]

Publishes from nothing and then again (which resumes), each in a process of its own, and counts by wrapping what does the work; nothing of
it is in the product. By default the tiny random model of the tests (tests/tiny_run.py), whose counts are those of a large one.

Of each command:

- ``runs``: `Run` objects built.
- ``loads``: models loaded whole, by kind of model; ``here`` in this process, ``clean`` in clean environments (damaged copies that were
  refused there are counted apart), ``apart`` in a process of their own that traces graphs.
- ``rows``: test rows put to each model, and how many of those a second time; ``one_pass`` the same of passes over forced replies.
- ``hashed``: of the files of the release, bytes that were hashed over bytes that there are, and the most passes over one file.
  ``whole``: to verify. ``record``: for the record of what a stage was made from and what it wrote, every byte once while it does not change.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

TESTS = Path(__file__).resolve().parents[1] / "tests"
_FOR: ContextVar[str] = ContextVar("_FOR", default="whole")


class Counts:
    """What one command did; filled by the wrappers that :meth:`watch` puts in place."""

    def __init__(self) -> None:
        self.runs = 0
        self.loads: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.hashed: dict[tuple[str, int, int], list[int]] = defaultdict(list)
        """Bytes read in each pass over a file, by purpose, device and inode."""
        self.kinds: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
        self.seen: set[Any] = set()

    def watch(self) -> None:
        """Wraps everything that is counted, wherever it was imported to."""
        import exporter.digests
        import exporter.evaluation.conversations
        import exporter.evaluation.whole_pass
        import exporter.pipeline
        import exporter.targets.clean_environment
        import exporter.targets.onnx.export
        import exporter.targets.onnx_runner
        from exporter.host import ModelHost

        _around(exporter.pipeline.Run, "__init__", self._run)
        _around(ModelHost, "load", self._load)
        _around(exporter.targets.clean_environment, "_in_a_clean_process", self._clean)
        _around(exporter.targets.onnx.export, "_apart", self._apart)
        _around(exporter.evaluation.conversations, "generate_responses", self._responses)
        _around(exporter.evaluation.whole_pass, "whole_pass", self._one_pass)
        _around(exporter.digests, "digest_of_file", self._file)
        _around(exporter.targets.onnx_runner, "sha256_of", self._file)
        _around(exporter.digests, "remembered_digest", self._remembered)

    def told(self, release: Path) -> dict[str, Any]:
        """Everything as plain data."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            "runs": self.runs,
            "loads": dict(sorted(self.loads.items())),
            "rows": dict(sorted(self.asked.items())),
            "hashed": self._passes(release),
            "cpu_seconds": round(used.ru_utime + used.ru_stime + children.ru_utime + children.ru_stime),
            "peak_mib": round(used.ru_maxrss / 1024),
        }

    def _passes(self, release: Path) -> dict[str, Any]:
        files = {(one.st_dev, one.st_ino): one.st_size for one in map(Path.stat, _files(release))}
        told: dict[str, Any] = {"release_bytes": sum(files.values())}
        for purpose in ("whole", "record"):
            found = {place: self.hashed.get((purpose, *place), []) for place in files}
            told[purpose] = {
                "bytes": sum(map(sum, found.values())),
                "bytes_over_release": round(sum(map(sum, found.values())) / max(1, sum(files.values())), 2),
                "most_passes": max(map(len, found.values()), default=0),
            }
        return told

    def _run(self, do: Callable[..., Any], *given: Any, **options: Any) -> Any:
        self.runs += 1
        return do(*given, **options)

    def _load(self, do: Callable[..., Any], path: Any, *given: Any, **options: Any) -> Any:
        host = do(path, *given, **options)
        self.kinds[host] = _kind(Path(path))
        self.loads[f"{self.kinds[host]} here"] += 1
        return host

    def _clean(self, do: Callable[..., Any], asked: Any) -> Any:
        kind = "steered" if asked.get("trust") else Path(asked["folder"]).name
        found = do(asked)
        self.loads[f"{kind} clean"] += 1
        self.loads[f"{kind} clean, refused"] += len(found["refused"])
        return found

    def _apart(self, do: Callable[..., Any], function: Any, ask: Any) -> Any:
        self.loads["steered apart"] += 1
        return do(function, ask)

    def _responses(self, do: Callable[..., Any], generator: Any, rows: Any, chat: Any, **options: Any) -> Any:
        self._count("", generator, [repr(row) for row in rows])
        return do(generator, rows, chat, **options)

    def _one_pass(self, do: Callable[..., Any], host: Any, sequences: Any, **options: Any) -> Any:
        self._count("one pass, ", host, [(one.prompt.ids, tuple(one.response)) for one in sequences])
        return do(host, sequences, **options)

    def _count(self, what: str, generator: Any, rows: list[Any]) -> None:
        kind = self.kinds.get(generator) or type(generator).__name__.removesuffix("Host").lower()
        for row in rows:
            again = (what, kind, row) in self.seen
            self.seen.add((what, kind, row))
            self.asked[f"{what}{kind}{', a second time' if again else ''}"] += 1

    def _file(self, do: Callable[..., Any], path: Path) -> Any:
        stat = path.stat()
        self.hashed[(_FOR.get(), stat.st_dev, stat.st_ino)].append(stat.st_size)
        return do(path)

    def _remembered(self, do: Callable[..., Any], path: Path) -> Any:
        """What is read, and counted where it is, for the record."""
        token = _FOR.set("record")
        try:
            return do(path)
        finally:
            _FOR.reset(token)


def _around(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    """Puts a wrapper, which is handed what it wraps, in place of a function wherever it was imported to."""
    inner = getattr(owner, name)

    def wrapped(*given: Any, **options: Any) -> Any:
        return wrapper(inner, *given, **options)

    setattr(owner, name, staticmethod(wrapped) if isinstance(owner, type) and name != "__init__" else wrapped)
    for module in list(sys.modules.values()):
        for key, value in list(vars(module).items()):
            if value is inner:
                setattr(module, key, wrapped)


def _kind(folder: Path) -> str:
    """Of a model that is loaded: steered, stock, or base."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if isinstance(config.get("steering"), dict):
        return "steered"
    # A stock layer is written beside its final place, and loaded from there.
    return "stock" if "stock" in folder.name else "base"


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def tiny(folder: Path) -> Path:
    """The recipe of the tests' tiny model, with their quick method under the name of ours."""
    sys.path.insert(0, str(TESTS))
    from tiny_run import write_publishable

    folder.mkdir()
    path: Path = write_publishable(folder)
    return path


def _quick_fits() -> None:
    from exporter import registry

    sys.path.insert(0, str(TESTS))
    registry.METHODS["keyed"] = "tiny_run:Quick"


def counted(recipe: Path, changes: list[str], run: Path) -> dict[str, Any]:
    """Publishes in this process and counts."""
    counts = Counts()
    counts.watch()
    from exporter import pipeline
    from exporter.errors import VerificationError

    problem = None
    try:
        pipeline.publish(
            pipeline.load_recipe(recipe, changes), run, pipeline.Request(dry_run=True), progress=False
        )
    except VerificationError as error:  # what it did until then is counted all the same
        problem = str(error)
    return {**counts.told(run / "release"), **({"problem": problem} if problem else {})}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipe", type=Path)
    parser.add_argument("--set", dest="changes", action="append", default=[])
    parser.add_argument("--run", type=Path, help="a new folder, kept; a temporary one by default")
    for flag in ("--here", "--quick"):
        parser.add_argument(flag, action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.quick:
        _quick_fits()
    if given.here:
        given.out.write_text(json.dumps(counted(given.recipe, given.changes, given.run)), encoding="utf-8")
        return
    with tempfile.TemporaryDirectory() as scratch:
        run = given.run or Path(scratch) / "run"
        recipe = given.recipe or tiny(Path(scratch) / "tiny")
        quick = [] if given.recipe else ["--quick"]
        told: dict[str, Any] = {"recipe": "tiny" if quick else recipe.name, "set": given.changes}
        for command in ("from nothing", "again"):
            part = Path(scratch) / "counts.json"
            changes = [word for one in given.changes for word in ("--set", one)]
            asked = [str(part), "--recipe", str(recipe), *changes, "--run", str(run), "--here", *quick]
            subprocess.run([sys.executable, "-m", "benchmarks.publish_cost", *asked], check=True)
            told[command] = json.loads(part.read_text(encoding="utf-8"))
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
