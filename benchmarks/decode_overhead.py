"""What steering costs per generated token and per prompt: ratios of interleaved runs in one process, with an A/A control.

A random Llama of about 60 million parameters, steered as `keyed` fits it: a gate that reads every column (rank 64, 64 + 96 prototypes)
and keyed rotation of 112 rows at the last layer. Every round runs base, steered with the gate on, steered with the gate off, and the base once
more, in an order that turns from round to round; a ratio is the median over rounds of one round's times. Greedy decoding behind 32
tokens, and one pass over a prompt of 512.

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

HIDDEN, LAYERS, ROWS, STEERED = 512, 12, 112, (11,)
RANK, GATE_LAYER, PROMPT = 64, 6, 512


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
    """Keyed rotation at the last layer under a gate that reads every column, and always or never fires."""
    generator = torch.Generator().manual_seed(1)

    def rows(count: int, width: int = HIDDEN) -> Tensor:
        return torch.nn.functional.normalize(torch.randn(count, width, generator=generator), dim=-1)

    tensors = {
        "center": rows(1)[0],
        "metric": rows(RANK),
        "forget_prototypes": rows(64, RANK),
        "retain_prototypes": rows(96, RANK),
    }
    gate = Gate("topic", GATE_LAYER, "token", "prototype_margin", -9.0 if fires else 9.0, "above", tensors)
    edits = tuple(
        Edit(layer, "topic", "rotate", "from_gate", strength=1.0, target="keyed", angle="fraction", protect="none",
             tensors={"keys": rows(ROWS), "key_center": rows(1)[0], "prototypes": rows(ROWS)})
        for layer in STEERED
    )  # fmt: skip
    base = BaseModelRef("LlamaForCausalLM", "llama")
    return SteeringProgram("bench", HIDDEN, LAYERS, base, (gate,), edits, ((5, 6),))


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


def prefill_seconds(model: Any) -> float:
    """Seconds for one pass over a prompt of PROMPT tokens, with a cache."""
    prompt = torch.arange(100, 100 + PROMPT).unsqueeze(0)
    with torch.no_grad():
        start = time.perf_counter()
        model(input_ids=prompt, use_cache=True, logits_to_keep=1)
        return time.perf_counter() - start


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
        prefill_seconds(model)
    decode = {
        name: (lambda model=model: decode_seconds(model, options.tokens)) for name, model in models.items()
    }
    prefill = {name: (lambda model=model: prefill_seconds(model)) for name, model in models.items()}
    found = {
        "what": "seconds per decoded token, and per prompt of 512 tokens, over the base's in the same round",
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
        "ratios": ratios(decode, options.rounds),
        "prefill_ratios": ratios(prefill, options.rounds),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    for what, key in (("decoded token", "ratios"), (f"prompt of {PROMPT}", "prefill_ratios")):
        for name, ratio in found[key].items():
            print(
                f"{what:15s} {name:28s} {ratio['median']:.3f}  (quartiles {ratio['q1']:.3f} to {ratio['q3']:.3f})"
            )
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
