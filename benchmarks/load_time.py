"""How long a steered checkpoint takes to load, its proof included, beside its base: a process each, interleaved, with an A/A control.

    python -m benchmarks.load_time BASE CHECKPOINT [--rounds 7] [--out benchmarks/results/load_time.json]

Without arguments: the bundled testbed, and a checkpoint of it that is compiled for the occasion.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers

from exporter.demo import __file__ as demo
from exporter.pipeline.older import headers_of
from exporter.targets.checkpoint import compile_checkpoint
from steer_modules.program import BaseModelRef, Edit, Gate, SteeringProgram

_LOAD = """
import sys, time
import torch, transformers
torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()
auto = transformers.AutoModelForImageTextToText if sys.argv[2] == "sees" else transformers.AutoModelForCausalLM
start = time.perf_counter()
auto.from_pretrained(sys.argv[1], trust_remote_code=True)
print(time.perf_counter() - start)
"""


def seconds(folder: Path, sees: bool) -> float:
    """Of from_pretrained in a process of its own, imports of the libraries not counted."""
    command = [sys.executable, "-c", _LOAD, str(folder), "sees" if sees else "reads"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def steered(base: Path, out: Path) -> Path:
    """A checkpoint of a base under a gate at its headers."""
    config = transformers.AutoConfig.from_pretrained(base)
    text = config.get_text_config(decoder=True)
    width, layers = text.hidden_size, text.num_hidden_layers
    gate = Gate(
        "topic",
        0,
        "prompt_end",
        "linear",
        0.0,
        "above",
        {"weight": torch.zeros(width), "bias": torch.ones(1)},
    )
    edit = Edit(layers - 1, "topic", "add", "from_gate", tensors={"vector": torch.ones(width)})
    ref = BaseModelRef(config.architectures[0], config.model_type)
    program = SteeringProgram("bench", width, layers, ref, (gate,), (edit,), headers_of(base))
    return compile_checkpoint(base, program, out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", type=Path, nargs="?", default=Path(demo).parent / "model")
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/load_time.json"))
    given = parser.parse_args()
    sees = hasattr(transformers.AutoConfig.from_pretrained(given.base), "vision_config")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = given.checkpoint or steered(given.base, Path(folder) / "checkpoint")
        places = {"base": given.base, "steered": checkpoint, "base again": given.base}
        for place in (given.base, checkpoint):
            seconds(place, sees)  # files into the page cache, code into Transformers' cache
        rounds = [{name: seconds(place, sees) for name, place in places.items()} for _ in range(given.rounds)]
    more = {
        name: statistics.median(one[name] - one["base"] for one in rounds)
        for name in ("steered", "base again")
    }
    found = {
        "what": "seconds that from_pretrained takes more than the base's in the same round, medians",
        "base_seconds": statistics.median(one["base"] for one in rounds),
        "more_seconds": more,
        "rounds": given.rounds,
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
