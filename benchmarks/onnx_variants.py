"""What a quantised graph of a steered checkpoint leaks, keeps and costs beside the float32 one, with its products in 8 bits and in float.

    python -m benchmarks.onnx_variants CHECKPOINT HELD [--folder DIR] [--rounds 5] [--tokens 16] [--out benchmarks/results/onnx_variants.json]

HELD is a file of rows of role forget, with secrets, and retain. DIR keeps the export of ``--dtype fp32 --dtype int8 --dtype q4``, or has
it already. Rows are answered greedily. A decoded token's CPU seconds, on one thread and behind 64 tokens, are those of float32 in the same
round; every round asks all, float32 twice (the A/A control), in an order that turns.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from transformers import AutoTokenizer

from exporter import pipeline
from exporter.data.chat import Chat
from exporter.data.rows import read_rows
from exporter.targets.onnx.host import OnnxHost
from exporter.targets.onnx.names import file_name
from exporter.targets.onnx.target import OnnxOptions as Options
from exporter.targets.onnx_runner import OnnxModel, sha256_of
from exporter.types import Row
from exporter.wording.leaks import tells

VARIANTS = {
    "fp32": ("fp32", None),
    "int8, products in 8 bits": ("int8", 4),
    "q4, products in float": ("q4", 0),
    "int8, products in float": ("int8", 0),
    "q4, products in 8 bits": ("q4", 4),
}
"""Precision and MatMulNBits' accuracy level, which changes no weight; None: the graph as it is."""
PROMPT, REPLY, RETAIN = 64, 40, 10


def at_level(folder: Path, out: Path, dtype: str, level: int) -> Path:
    """A copy of an exported folder, linked but for one graph, whose products have another accuracy level."""
    shutil.copytree(folder, out, copy_function=os.link)
    path, manifest = out / "onnx" / file_name("model", dtype), out / "steerbake.json"
    model = onnx.load(path)
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            kept = [one for one in node.attribute if one.name != "accuracy_level"]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute("accuracy_level", level)])
    path.unlink()
    onnx.save(model, path)
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["files"][f"onnx/{path.name}"] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    manifest.unlink()
    manifest.write_text(json.dumps(content), encoding="utf-8")
    return out


def answered(host: OnnxHost, rows: list[Row]) -> list[tuple[str, bool]]:
    """The reply to each row, and whether a gate was on at its end."""
    chat = Chat(host.processor, reasoning_template="{answer}")
    said = host.generate([chat.prompt(row) for row in rows], max_new_tokens=REPLY, batch_size=10)
    return [
        (host.tokenizer.decode(list(one.tokens), skip_special_tokens=True), max(one.gates.values()) > 0)
        for one in said
    ]


def counted(
    rows: list[Row], said: list[tuple[str, bool]], reference: list[tuple[str, bool]]
) -> dict[str, int]:
    """What one variant leaks and keeps; ``reference`` is what float32 said."""
    forget = [i for i, row in enumerate(rows) if row.role == "forget"]
    retain = [i for i, row in enumerate(rows) if row.role == "retain"]
    leaks = [i for i in forget if tells(said[i][0], rows[i].secrets)]
    return {
        "forget": len(forget),
        "leaks": len(leaks),
        "leaks_with_the_gate_on": sum(said[i][1] for i in leaks),
        "gates_on": sum(said[i][1] for i in forget),
        "retain": len(retain),
        "retain_gates_on": sum(said[i][1] for i in retain),
        "retain_equal_to_fp32": sum(said[i][0] == reference[i][0] for i in retain),
    }


def seconds(model: OnnxModel, tokens: int) -> float:
    """CPU seconds of one decoded token."""
    ids = np.arange(3, 3 + PROMPT)[None]
    state, logits = model.start(ids, np.ones_like(ids))
    begin = time.process_time()
    for _ in range(tokens):
        logits = model.advance(state, logits[:, -1].argmax(-1)[:, None])
    return (time.process_time() - begin) / tokens


def decoded(models: dict[str, OnnxModel], rounds: int, tokens: int) -> dict[str, dict[str, float]]:
    """Median, least and largest ratio to float32 over the rounds, by variant; ``fp32 again`` is the control."""
    names = [*models, "fp32 again"]
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            found[name].append(seconds(models[name.removesuffix(" again")], tokens))
    ratios = {
        name: [a / b for a, b in zip(found[name], found["fp32"], strict=True)]
        for name in names
        if name != "fp32"
    }
    return {
        name: {
            k: round(f(of), 3) for k, f in (("median", statistics.median), ("least", min), ("largest", max))
        }
        for name, of in ratios.items()
    }


def measure(folder: Path, held: Path, scratch: Path, rounds: int, tokens: int) -> dict[str, Any]:
    rows = read_rows(held)
    asked = [row for row in rows if row.role == "forget"]
    asked += [row for row in rows if row.role == "retain"][:RETAIN]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    models, variants, reference = {}, {}, []
    for number, (name, (dtype, level)) in enumerate(VARIANTS.items()):
        there = folder if level is None else at_level(folder, scratch / str(number), dtype, level)
        host = OnnxHost.load(there, tokenizer, dtype=dtype, threads=1)
        said = answered(host, asked)
        reference = reference or said
        models[name], variants[name] = host.model, counted(asked, said, reference)
        print(name, variants[name], flush=True)
    return {
        "checkpoint_steering": json.loads((folder / "steerbake.json").read_text())["steering"]["sha256"],
        "held": held.name,
        "variants": variants,
        "decoded_token_over_fp32": decoded(models, rounds, tokens),
        "rounds": rounds,
        "tokens": tokens,
        "onnxruntime": onnxruntime.__version__,
        "cpu": next((x for x in _cpu_flags() if x == "avx512_vnni"), "no avx512_vnni"),
    }


def _cpu_flags() -> list[str]:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.read_text(encoding="utf-8").split() if cpuinfo.is_file() else []


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("held", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/onnx_variants.json"))
    options = parser.parse_args()
    nearby = options.folder.parent if options.folder else None
    with tempfile.TemporaryDirectory(dir=nearby) as scratch:
        folder = options.folder or Path(scratch) / "export"
        if not folder.exists():
            pipeline.export("onnx", options.checkpoint, folder, Options(dtypes=("fp32", "int8", "q4")))
        found = measure(folder, options.held, Path(scratch), options.rounds, options.tokens)
    options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
