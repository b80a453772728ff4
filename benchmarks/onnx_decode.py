"""What a decoded token costs on ONNX Runtime: steered over unsteered graph, and PyTorch over ONNX Runtime, in one interleaved run.

Every round decodes with the unsteered graph, the steered one with its gate off and with its gate on, eager Transformers, and the
unsteered graph once more (the A/A control), in an order that turns from round to round; a ratio is the median over rounds of one
round's times. Threads do not spin, so that they do not take the cores from whoever comes next.

    python -m benchmarks.onnx_decode CHECKPOINT [--rounds 20] [--tokens 24] [--threads 2] [--out benchmarks/results/onnx_decode.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import transformers

from exporter import pipeline
from exporter.host import ModelHost
from exporter.targets.onnx.target import OnnxOptions as Options
from exporter.targets.onnx_runner import OnnxModel
from steer_modules.registration import register

PROMPT = 64


def onnx_seconds(model: OnnxModel, tokens: int, gate: float | None) -> float:
    """Seconds of one decoded token behind a prompt, with a given gate."""
    ids = np.arange(3, 3 + PROMPT)[None]
    gates = None if gate is None else np.full((1, len(model.gate_names)), gate, np.float32)
    state, logits = model.start(ids, np.ones_like(ids), gates=gates)
    begin = time.perf_counter()
    for _ in range(tokens):
        logits = model.advance(state, logits[:, -1].argmax(-1)[:, None], gates=gates)
    return (time.perf_counter() - begin) / tokens


def eager_seconds(model: Any, tokens: int) -> float:
    """The same with eager Transformers, the steered checkpoint with its gate off."""
    cache = transformers.DynamicCache(config=model.config)
    gate = torch.zeros(1, len(model.steering.gate_names))
    with torch.no_grad():
        ids = torch.arange(3, 3 + PROMPT)[None]
        token = model(ids, past_key_values=cache, steering_gate=gate).logits[:, -1:].argmax(-1)
        begin = time.perf_counter()
        for _ in range(tokens):
            token = model(token, past_key_values=cache, steering_gate=gate).logits[:, -1:].argmax(-1)
    return (time.perf_counter() - begin) / tokens


def rounds(runs: dict[str, Callable[[], float]], count: int) -> dict[str, list[float]]:
    """Seconds by name; each round runs all, starting one further on."""
    names = list(runs)
    found: dict[str, list[float]] = {name: [] for name in names}
    for run in runs.values():
        run()
    for number in range(count):
        turned = names[number % len(names) :] + names[: number % len(names)]
        for name in turned:
            found[name].append(runs[name]())
    return found


def ratio(over: list[float], under: list[float]) -> dict[str, float]:
    """Median of the rounds' ratios, with the quartiles around it."""
    low, middle, high = statistics.quantiles([a / b for a, b in zip(over, under, strict=True)], n=4)
    return {"median": round(middle, 4), "lower_quartile": round(low, 4), "upper_quartile": round(high, 4)}


def measure(checkpoint: Path, home: Path, options: argparse.Namespace) -> dict[str, Any]:
    models, sizes = {}, {}
    for name in ("steered", "unsteered"):
        folder = home / name
        if not folder.exists():
            pipeline.export("onnx", checkpoint, folder, Options(steered=name == "steered"))
        models[name] = OnnxModel(folder, provider="cpu", threads=options.threads, spinning=False)
        sizes[name] = sum(path.stat().st_size for path in (folder / "onnx").iterdir())
    register(checkpoint)
    eager = ModelHost.load(checkpoint, dtype=torch.float32).model
    torch.set_num_threads(options.threads)
    steered, plain = models["steered"], models["unsteered"]
    found = rounds(
        {
            "unsteered": lambda: onnx_seconds(plain, options.tokens, None),
            "steered, gate off": lambda: onnx_seconds(steered, options.tokens, 0.0),
            "steered, gate on": lambda: onnx_seconds(steered, options.tokens, 1.0),
            "eager Transformers": lambda: eager_seconds(eager, options.tokens),
            "unsteered again": lambda: onnx_seconds(plain, options.tokens, None),
        },
        options.rounds,
    )
    under = found["unsteered"]
    return {
        "model": checkpoint.resolve().parent.name,
        "rounds": options.rounds,
        "tokens": options.tokens,
        "threads": options.threads,
        "milliseconds_per_token": {k: round(1000 * statistics.median(v), 3) for k, v in found.items()},
        "gate_off_over_unsteered": ratio(found["steered, gate off"], under),
        "gate_on_over_unsteered": ratio(found["steered, gate on"], under),
        "unsteered_over_itself": ratio(found["unsteered again"], under),
        "eager_over_steered_gate_off": ratio(found["eager Transformers"], found["steered, gate off"]),
        "bytes": sizes,
        "size_overhead": round(sizes["steered"] / sizes["unsteered"] - 1, 5),
        "versions": {
            "onnxruntime": onnxruntime.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folders", type=Path, help="keep the exports here, or take them from here")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/onnx_decode.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(options.checkpoint, options.folders or Path(scratch), options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
