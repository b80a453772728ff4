"""Puts every caller to steered checkpoints, on several versions of Transformers: each must steer, or raise.

    python -m benchmarks.callers [CHECKPOINT...] [--transformers 5.22.0 5.23.0 5.24.0] [--rows ROWS] [--out FILE]

A caller is one way to load a checkpoint, to run it, or to take it apart. It is put to the steered checkpoint and, as a control, to
the base that lies in it. A cell says ``steers`` where nothing that the caller gets is the base's, no secret leaks and every
logit is that of one whole pass; ``raises`` where it gets nothing; and otherwise ``FAILS OPEN``, which makes the exit status 1. ROWS
are JSON lines with forget and retain rows that belong to the checkpoint; by default those of the bundled testbed. Without any
CHECKPOINT, a tiny random one is made whose gate fires at every generation header: seconds a caller, and no secrets. Each version
runs in a process and an environment of its own, installed once under .cache/callers.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.callers.environments import Workers
from benchmarks.callers.observed import OPEN, RAISES
from benchmarks.callers.registry import CORE, known
from benchmarks.callers.side import NEW
from benchmarks.callers.subject import Subject, base_of, questions_of
from benchmarks.callers.tiny import tiny_subject

ROWS = Path(__file__).resolve().parents[2] / "exporter" / "demo" / "rows" / "test.jsonl"
VERSIONS = ("5.22.0", "5.23.0", "5.24.0")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", type=Path, nargs="*", metavar="CHECKPOINT")
    parser.add_argument("--transformers", nargs="+", default=list(VERSIONS), metavar="VERSION")
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="callers whose names hold one of these")
    parser.add_argument("--core", action="store_true", help="only what `make test` runs")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds that one cell may take")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    names = [
        name
        for name in known()
        if (not options.core or name in CORE)
        and (options.only is None or any(word in name for word in options.only))
    ]
    found = {
        "what": "each caller on each version: steers, or raises; anything else fails open",
        "rows": options.rows.name,
        "versions": {"torch": importlib.metadata.version("torch"), "python": platform.python_version()},
        "checkpoints": {},
    }
    for folder in options.checkpoints or [None]:
        with tempfile.TemporaryDirectory(prefix="callers-") as name:
            subject = (
                tiny_subject(Path(name)) if folder is None else _subject(folder, options.rows, Path(name))
            )
            label = "tiny" if folder is None else folder.resolve().name
            subject.save(Path(name) / "subject.pt")
            found["checkpoints"][label] = {
                version: cells_of(
                    label, version, Workers(version, Path(name) / "subject.pt", options.limit), names
                )
                for version in options.transformers
            }
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print("\n\n".join(f"### {name}\n\n{table(cells)}" for name, cells in found["checkpoints"].items()))
    return int(any(open_cells(cells) for cells in found["checkpoints"].values()))


def _subject(folder: Path, rows: Path, work: Path) -> Subject:
    """A checkpoint with the base that lies in it, and some rows as questions."""
    plain = base_of(folder.resolve(), work / "base")
    return Subject(folder.resolve(), plain, questions_of(plain, rows, new_tokens=NEW))


def cells_of(label: str, version: str, workers: Workers, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The cells of one version by caller; each is said as it comes."""
    found = {}
    for cell in workers.cells(names):
        name = cell.pop("caller")
        found[name] = cell
        print(f"{label} {version} {name}: {cell['word']} {cell['why']}"[:200], file=sys.stderr)
    return found


def open_cells(by_version: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Version, caller and why of every cell that is neither of the two words."""
    return [
        (version, name, cell["why"])
        for version, cells in by_version.items()
        for name, cell in cells.items()
        if cell["word"] == OPEN
    ]


def table(by_version: Mapping[str, Mapping[str, Any]]) -> str:
    """In Markdown; a star where the same raises, or gives nothing away, on the base too."""
    versions = list(by_version)
    lines = [["caller", *versions], ["---"] * (len(versions) + 1)]
    for name in by_version[versions[0]]:
        cells = [by_version[version][name] for version in versions]
        lines.append([name, *(_shown(cell) for cell in cells)])
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    counts = {
        version: {word: sum(_shown(cell) == word for cell in by_version[version].values()) for word in words}
        for version in versions
        for words in [sorted({_shown(cell) for cell in by_version[version].values()})]
    }
    said = [
        f"{version}: " + ", ".join(f"{count} {word}" for word, count in counts[version].items())
        for version in versions
    ]
    return "\n".join([text, "", "\\* the base gives nothing away there either", "", *said])


def _shown(cell: Mapping[str, Any]) -> str:
    return cell["word"] + ("" if cell["control"] == "tells" or cell["word"] != RAISES else "*")


if __name__ == "__main__":
    raise SystemExit(main())
