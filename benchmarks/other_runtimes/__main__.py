"""Runs the exported layouts of a finished run in the runtimes that they are for, and compares token for token.

    python -m benchmarks.other_runtimes RUN [--prompts 20] [--base FOLDER] [--out benchmarks/results/other_runtimes_NAME.json]

RUN is the folder of ``steerbake run``. Its checkpoint is exported once for onnxruntime-genai and once for transformers.js, and, where a weight edit
is merged into it, once for llama.cpp; with ``--base``, the model that was edited, llama.cpp also runs that with the edit as an adapter. All
continue prompts of RUN/generations.jsonl greedily in float32, and must say the very tokens that stand there, which are those of
the checkpoint in Transformers. Exits 1 on any difference. The runtimes are installed under .cache/other_runtimes; the
second needs Node, the converters of the third sentencepiece.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.other_runtimes.prompts import Line, chosen, lines_of
from benchmarks.other_runtimes.runtimes import (
    Genai,
    LlamaCpp,
    LlamaCppAdapter,
    Runtime,
    RuntimeMissingError,
    TransformersJs,
    call,
)
from exporter.errors import CompileError, VerificationError
from exporter.report import Report
from exporter.targets.onnx_runner import FolderError


def answers(runtime: Runtime, run: Path, lines: Sequence[Line], max_new_tokens: int) -> dict[str, Any]:
    """What a runtime says to lines, by their ids, and the versions it runs with."""
    with tempfile.TemporaryDirectory(prefix="other-runtimes-") as name:
        work, out = Path(name), Path(name) / "said.json"
        runtime.prepare(run, lines, max_new_tokens, work)
        call(runtime.command(work, out))
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def compared(lines: Sequence[Line], said: dict[str, list[int]]) -> dict[str, Any]:
    """How many prompts got the checkpoint's tokens; those that did not, in full."""
    wrong = [line for line in lines if said[line.id] != list(line.tokens)]
    forget = [line for line in lines if line.role == "forget"]
    return {
        "prompts": len(lines),
        "same": len(lines) - len(wrong),
        "forget_prompts": len(forget),
        "forget_same": sum(line not in wrong for line in forget),
        "differing": [{"id": line.id, "checkpoint": line.tokens, "runtime": said[line.id]} for line in wrong],
    }


def kinds_of(lines: Sequence[Line]) -> dict[str, dict[str, int]]:
    """Numbers of prompts by role, in all, with images, and where the base says something else."""
    counted: dict[str, dict[str, int]] = {}
    for line in lines:
        kind = counted.setdefault(line.role, {"prompts": 0, "with_images": 0, "base_says_otherwise": 0})
        kind["prompts"] += 1
        kind["with_images"] += bool(line.images)
        kind["base_says_otherwise"] += line.tokens != line.base_tokens
    return counted


def show(found: dict[str, Any]) -> None:
    for role, kind in found["prompts"].items():
        print(
            f"{role:12s} {kind['prompts']:3d} prompts, {kind['with_images']} with images; "
            f"to {kind['base_says_otherwise']} the unsteered base says something else"
        )
    print(f"\n{'runtime':20s} {'prompts':>8s} {'same':>8s} {'forget':>8s} {'same':>8s}")
    for name, result in found["runtimes"].items():
        counts = (result[key] for key in ("prompts", "same", "forget_prompts", "forget_same"))
        print(f"{name:20s}" + "".join(f" {count:8d}" for count in counts))
        for one in result["differing"]:
            print(f"  {one['id']}: checkpoint {list(one['checkpoint'])}, runtime {one['runtime']}")


def runtimes(options: argparse.Namespace) -> list[Runtime]:
    """Those that can run what the run exports."""
    found: list[Runtime] = [Genai(options.genai_python), TransformersJs(options.node_modules)]
    if LlamaCpp.reads(options.run):
        found.append(LlamaCpp(options.llama_python))
        if options.base is not None:
            found.append(LlamaCppAdapter(options.llama_python, options.base))
    return [one for one in found if options.only is None or one.name in options.only]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--genai-python", type=Path, help="a Python that has onnxruntime-genai and numpy")
    parser.add_argument("--node-modules", type=Path, help="a folder that holds @huggingface/transformers")
    parser.add_argument("--llama-python", type=Path, help="a Python that has xllamacpp")
    parser.add_argument("--base", type=Path, help="the model that was edited")
    parser.add_argument("--only", nargs="+", metavar="RUNTIME")
    options = parser.parse_args()
    out = options.out or Path(f"benchmarks/results/other_runtimes_{options.run.resolve().name}.json")
    report = Report.load(options.run)
    lines = chosen(lines_of(options.run, report), options.prompts)
    packages = ("torch", "transformers", "onnx", "onnxscript", "tokenizers", "numpy", "pillow")
    found: dict[str, Any] = {
        "what": "greedy float32 tokens of what is exported against those of the checkpoint in Transformers",
        "method": report.default,
        "steering_sha256": report.steering_sha256.get(report.default),
        "max_new_tokens": report.max_new_tokens,
        "prompts": kinds_of(lines),
        "prompt_ids": [line.id for line in lines],
        "versions": {name: importlib.metadata.version(name) for name in packages}
        | {"python": platform.python_version()},
        "runtimes": {},
    }
    try:
        for runtime in runtimes(options):
            runtime.install()
            replies = answers(runtime, options.run, lines, report.max_new_tokens)
            found["runtimes"][runtime.name] = {
                **compared(lines, replies["said"]),
                "versions": replies["versions"],
            }
    except (CompileError, FolderError, RuntimeMissingError, VerificationError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    show(found)
    print(f"wrote {out}")
    return int(any(result["differing"] for result in found["runtimes"].values()))


if __name__ == "__main__":
    sys.exit(main())
