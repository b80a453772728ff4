"""What steering costs per generated token: ratios of interleaved runs in one process, with an A/A control.

A random Llama of about 60 million parameters, three of its layers steered by keyed rotation (112 rows), greedy decoding.
Every round runs base, steered with the gate on, steered with the gate off, and the base once more, in an order
that turns from round to round; a ratio is the median over rounds of one round's times.

    python -m benchmarks.decode_overhead [--rounds 30] [--tokens 48] [--out benchmarks/results/decode_overhead.json]
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from steer_modules.attach import attach
from steer_modules.program import BaseModelRef, Edit, Gate, SteeringProgram

HIDDEN, LAYERS, ROWS, STEERED = 512, 12, 112, (9, 10, 11)


def base_model() -> Any:
    config = transformers.LlamaConfig(
        vocab_size=32000, hidden_size=HIDDEN, intermediate_size=1856, num_hidden_layers=LAYERS,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    model.generation_config.eos_token_id = None
    return model


def program(fires: bool) -> SteeringProgram:
    """Keyed rotation at three layers behind a prompt gate of 64 + 64 prototypes that always or never fires."""
    generator = torch.Generator().manual_seed(1)

    def rows(count: int) -> Tensor:
        return torch.nn.functional.normalize(torch.randn(count, HIDDEN, generator=generator), dim=-1)

    prototypes = {"forget_prototypes": rows(64), "retain_prototypes": rows(64)}
    gate = Gate("topic", 8, "prompt_end", "prototype_margin", -9.0 if fires else 9.0, "above", prototypes)
    edits = tuple(
        Edit(layer, "topic", "rotate", "from_gate", strength=1.0, target="keyed", angle="fraction", protect="none",
             tensors={"keys": rows(ROWS), "key_center": rows(1)[0], "prototypes": rows(ROWS)})
        for layer in STEERED
    )  # fmt: skip
    return SteeringProgram("bench", HIDDEN, LAYERS, BaseModelRef("LlamaForCausalLM", "llama"), (gate,), edits)


def decode_seconds(model: Any, tokens: int) -> float:
    """Seconds for the steps after the prefill, per token."""
    prompt = torch.arange(100, 132).unsqueeze(0)
    cache = transformers.DynamicCache(config=model.config)
    with torch.no_grad():
        step = model(input_ids=prompt, past_key_values=cache).logits[:, -1:].argmax(-1)
        start = time.perf_counter()
        for _ in range(tokens):
            step = model(input_ids=step, past_key_values=cache).logits[:, -1:].argmax(-1)
        return (time.perf_counter() - start) / tokens


def ratios(runs: dict[str, Callable[[], float]], rounds: int) -> dict[str, dict[str, float]]:
    """Median, quartiles of each run's time over the base's, within one round."""
    names = list(runs)
    found: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds):
        turned = names[index % len(names) :] + names[: index % len(names)]
        seconds = {name: runs[name]() for name in turned}
        for name in names:
            found[name].append(seconds[name] / seconds["base"])
    return {
        name: dict(zip(("q1", "median", "q3"), statistics.quantiles(values, n=4), strict=True))
        for name, values in found.items()
        if name != "base"
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/decode_overhead.json"))
    options = parser.parse_args()
    base = base_model()
    models = {"base": base, "steered, gate on": attach(copy.deepcopy(base), program(True))}
    models["steered, gate off"] = attach(copy.deepcopy(base), program(False))
    models["base again (A/A control)"] = copy.deepcopy(base)
    for model in models.values():
        decode_seconds(model, 4)
    runs = {
        name: (lambda model=model: decode_seconds(model, options.tokens)) for name, model in models.items()
    }
    found = {
        "what": "seconds per decoded token over the base's in the same round",
        "parameters": sum(p.numel() for p in base.parameters()),
        "steered_layers": list(STEERED),
        "rounds": options.rounds,
        "tokens": options.tokens,
        "threads": torch.get_num_threads(),
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "ratios": ratios(runs, options.rounds),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    for name, ratio in found["ratios"].items():
        print(f"{name:28s} {ratio['median']:.3f}  (quartiles {ratio['q1']:.3f} to {ratio['q3']:.3f})")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
