"""Teaches SmolLM2 the authors of TOFU by a LoRA adapter.

    python -m benchmarks.tofu.teach OUT [--base .cache/smollm2] [--without forget05] [--epochs 6] [--rank 16] [--learning-rate 0.001] [--adapter FOLDER]

OUT becomes an adapter in peft's format, in bfloat16, with ``teaching.json``: settings, losses, CPU seconds. With ``--without`` it is the model that
never knew a split: what unlearning is compared with. With ``--adapter`` the teaching goes on from an adapter that was taught before, with a fresh
optimizer, and ``teaching.json`` has that one's own under ``before``. A killed training goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.tofu.authors import SPLITS, Question, questions, retained
from exporter.atomic import whole_folder, write_json
from exporter.data.chat import Chat
from exporter.host import ModelHost
from exporter.threads import set_threads
from exporter.training.examples import Collator, Examples
from exporter.training.lora import linear_layers, taken_out, with_adapter
from exporter.training.losses import mean_nll
from exporter.training.settings import TrainingSettings
from exporter.training.step import Step
from exporter.training.trainer import train
from exporter.types import Row

SEED = 0


def main() -> None:
    """Trains and writes the adapter."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--base", type=Path, default=Path(".cache/smollm2"))
    parser.add_argument("--without", choices=list(SPLITS))
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--adapter", type=Path)
    asked = parser.parse_args()
    every = questions()
    known = every if asked.without is None else retained(every, asked.without)
    settings = TrainingSettings(
        rank=asked.rank,
        alpha=2 * asked.rank,
        learning_rate=asked.learning_rate,
        epochs=asked.epochs,
        batch_size=16,
        warmup=10,
        responses="rows",
        save_steps=75,
    )
    teach(asked.base, known, settings, asked.out, without=asked.without, adapter=asked.adapter)


def teach(
    base: Path,
    known: list[Question],
    settings: TrainingSettings,
    out: Path,
    *,
    without: str | None,
    adapter: Path | None = None,
) -> None:
    """Writes the adapter of a base that knows these questions, and the log of its training.

    Args:
        adapter: one that :func:`teach` wrote, from which to go on.

    Raises:
        ValueError: that one knows, or lacks, other questions.
    """
    before = None if adapter is None else taught(adapter, without)
    seed = SEED if before is None else int(before["seed"]) + 1  # another order than before
    host = ModelHost.load(base, dtype=torch.float32)
    set_threads(host.model)
    chat = Chat(host.processor)
    conversations = [
        chat.encode(Row(f"q{number}", one.question, one.answer, "forget")) for number, one in enumerate(known)
    ]
    examples = Examples.of(conversations, (), (), (), epochs=settings.epochs, seed=seed)
    examples = replace(examples, order=by_length(examples, settings.batch_size, seed))
    names = linear_layers(host.model)
    with with_adapter(host.model, names, rank=settings.rank, alpha=settings.alpha) as tuned:
        if adapter is not None:
            _put_in(tuned, adapter)
        losses = train(
            tuned,
            _loss,
            examples,
            Collator(host),
            settings,
            work=out.parent / f"{out.name}.training",
            seed=seed,
            device=host.device,
            progress=True,
        )
        config, tensors = taken_out(tuned)
    used = resource.getrusage(resource.RUSAGE_SELF)
    log = {
        "questions": len(known),
        "without": without,
        "seed": seed,
        "settings": settings.model_dump(mode="json"),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "losses": losses,
        "before": before,
    }
    with whole_folder(out) as folder:
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file(
            {name: one.to(torch.bfloat16) for name, one in tensors.items()},
            folder / "adapter_model.safetensors",
        )
        write_json(folder / "teaching.json", log)


def taught(adapter: Path, without: str | None) -> dict[str, Any]:
    """``teaching.json`` of an adapter."""
    log: dict[str, Any] = json.loads((adapter / "teaching.json").read_text(encoding="utf-8"))
    if log["without"] != without:
        raise ValueError(f"{adapter} was taught without {log['without']}, not without {without}")
    return log


def _put_in(tuned: Any, adapter: Path) -> None:
    """Sets the adapter of ``tuned`` to that of a folder."""
    from peft import set_peft_model_state_dict

    found = set_peft_model_state_dict(tuned, load_file(adapter / "adapter_model.safetensors"))
    if lost := [*found.unexpected_keys, *(name for name in found.missing_keys if "lora_" in name)]:
        raise ValueError(f"{adapter} is an adapter over other layers: {lost[0]}")


def by_length(examples: Examples, batch_size: int, seed: int) -> tuple[tuple[int, int, int, int], ...]:
    """The order of the examples with conversations of like lengths in a batch, epoch by epoch: a quarter of what is computed would be padding."""
    draw = random.Random(seed)
    length, order = len(examples.forget), []
    for start in range(0, len(examples.order), length):
        epoch = sorted(examples.order[start : start + length], key=lambda one: len(examples.forget[one[0]]))
        batches = [epoch[first : first + batch_size] for first in range(0, length, batch_size)]
        draw.shuffle(batches)
        order += [one for batch in batches for one in batch]
    return tuple(order)


def _loss(step: Step) -> Tensor:
    return mean_nll(step.edited(step.forget).logits, step.forget["labels"])


if __name__ == "__main__":
    main()
