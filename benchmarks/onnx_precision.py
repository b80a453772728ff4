"""How far float32 is from float64: PyTorch's logits and those of an ONNX graph, over the prompts of a run.

    python -m benchmarks.onnx_precision BASE GRAPH RUN [--prompts 24] [--out benchmarks/results/onnx_precision.json]

BASE is a text model, GRAPH its unsteered graph (``steerbake export onnx CHECKPOINT OUT --unsteered``), RUN a folder of ``steerbake run``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import transformers

LEVELS = {"all optimisations": 99, "no optimisation": 0}


def session(graph: Path, level: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel(level)
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def logits(run: onnxruntime.InferenceSession, ids: np.ndarray) -> np.ndarray:
    """Logits [1, T, V] of one prompt."""
    feed = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "position_ids": np.arange(ids.shape[1])[None],
    }
    for value in run.get_inputs():
        if value.name.startswith("past_key_values."):
            feed[value.name] = np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
    return np.asarray(run.run(["logits"], feed)[0])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("base", "graph", "run"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/onnx_precision.json"))
    options = parser.parse_args()
    lines = [
        json.loads(line)
        for line in (options.run / "generations.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    lines = [line for line in lines if line["model"] == "base"]
    chosen = lines[:: max(1, len(lines) // options.prompts)][: options.prompts]
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.base)
    single, double = (
        transformers.AutoModelForCausalLM.from_pretrained(options.base, dtype=dtype).eval()
        for dtype in (torch.float32, torch.float64)
    )
    runs = {name: session(options.graph, level) for name, level in LEVELS.items()}
    names = ["PyTorch float32", *(f"ONNX Runtime float32, {name}" for name in runs)]
    worst = {f"{name} - PyTorch float64": 0.0 for name in names}
    worst |= {f"{name} - PyTorch float32": 0.0 for name in names[1:]}
    largest = 0.0
    for line in chosen:
        ids = tokenizer(line["prompt"], return_tensors="pt", add_special_tokens=False).input_ids
        with torch.no_grad():
            exact = double(ids).logits.numpy()
            found = [single(ids).logits.numpy(), *(logits(run, ids.numpy()) for run in runs.values())]
        largest = max(largest, float(np.abs(exact).max()))
        for index, (name, values) in enumerate(zip(names, found, strict=True)):
            for against, other in (("float64", exact), ("float32", found[0])):
                if against == "float64" or index:
                    key = f"{name} - PyTorch {against}"
                    worst[key] = max(worst[key], float(np.abs(values.astype(np.float64) - other).max()))
    report = {"prompts": len(chosen), "largest_logit": largest, "largest_difference": worst}
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
