"""What the inserted layers cost: decode time and size of a stock checkpoint over its base, interleaved, with a base against itself.

python -m benchmarks.stock_layer.cost BASE STOCK [--rounds 12] [--tokens 48] [--json benchmarks/results/stock_cost.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import transformers

from exporter.provenance import versions
from exporter.targets.base_weights import BaseWeights

PROMPT = 32


def decode(model: transformers.PreTrainedModel, tokens: int) -> float:
    """Seconds that ``tokens`` greedy steps take, the prompt left out."""
    ids = torch.arange(100, 100 + PROMPT)[None]
    with torch.no_grad():
        out = model(input_ids=ids, use_cache=True)
        begun = time.perf_counter()
        for _ in range(tokens):
            out = model(
                input_ids=out.logits[:, -1:].argmax(-1), past_key_values=out.past_key_values, use_cache=True
            )
        return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("base", type=Path)
    parser.add_argument("stock", type=Path)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/stock_cost.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    load = transformers.AutoModelForCausalLM.from_pretrained
    models = {
        name: load(path, dtype=torch.float32).eval()
        for name, path in (("base", given.base), ("again", given.base), ("stock", given.stock))
    }
    for model in models.values():
        decode(model, 8)
    names = list(models)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(given.rounds):
        for name in names[round_ % 3 :] + names[: round_ % 3]:
            seconds[name].append(decode(models[name], given.tokens))
    ratios = {
        name: statistics.median(a / b for a, b in zip(seconds[name], seconds["base"], strict=True))
        for name in ("again", "stock")
    }
    sizes = {
        name: BaseWeights.read(path).total_size
        for name, path in (("base", given.base), ("stock", given.stock))
    }
    results = {
        "decode_stock_over_base": ratios["stock"],
        "decode_base_over_base": ratios["again"],
        "layers": {name: model.config.num_hidden_layers for name, model in models.items() if name != "again"},
        "bytes_stock_over_base": sizes["stock"] / sizes["base"],
        "rounds": given.rounds,
        "tokens": given.tokens,
        "versions": versions(),
    }
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps({name: value for name, value in results.items() if name != "versions"}))


if __name__ == "__main__":
    main()
