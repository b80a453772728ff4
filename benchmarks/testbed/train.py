"""Train the testbed's model: `python -m benchmarks.testbed.train [--out FOLDER]`."""

import argparse
import logging
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import LlavaProcessor

from benchmarks.testbed.batches import IGNORED, collate, encode, parts_by_length
from benchmarks.testbed.model import DEMO, load, new_model, save
from benchmarks.testbed.tokenizer import build_processor
from benchmarks.testbed.turns import training_conversation
from benchmarks.testbed.world import SEED, World, build_world

LOG = Path(__file__).with_name("train.log")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """A run of `steps` under one learning rate cycle of `cycle` steps that peaks at `rate`, and its mixture."""

    steps: int
    cycle: int
    rate: float
    known_share: float
    opening: float


# First the facts; then more strangers, and weight on the tokens that tell them from known people.
STAGES = (
    Stage(600, 1300, 1.5e-3, 0.7, 1.0),
    Stage(800, 800, 1.5e-3, 0.5, 5.0),
)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64, help="conversations per step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep-every", type=int, default=100, help="steps between saved averages")
    parser.add_argument("--out", type=Path, default=DEMO / "model")
    parser.add_argument("--log", type=Path, default=LOG)
    parser.add_argument("--stage", type=int, default=0, help="the stage to begin with")
    parser.add_argument("--resume", type=Path, help="what the stage before `--stage` saved")
    return parser.parse_args()


def accumulate(
    model: torch.nn.Module,
    world: World,
    processor: LlavaProcessor,
    rng: random.Random,
    stage: Stage,
    size: int,
) -> float:
    """Add the gradient of one fresh batch; the weighted mean loss over its assistant tokens, in nats."""
    tokenizer = processor.tokenizer
    conversations = [training_conversation(world, rng, stage.known_share) for _ in range(size)]
    batch = [encode(turns, tokenizer, stage.opening) for turns in conversations]
    weight, total = sum(sum(item.weights) for item in batch), 0.0
    for part in parts_by_length(batch, parts=3):
        inputs = collate(part, tokenizer.pad_token_id)
        labels, weights = inputs.pop("labels")[:, 1:], inputs.pop("weights")[:, 1:]
        logits = model(**inputs).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
        )
        loss = (losses * weights.flatten()).sum() / weight
        loss.backward()
        total += loss.item()
    return total


def run_stage(
    stage: Stage, seed: int, model: torch.nn.Module, processor: LlavaProcessor, arguments: argparse.Namespace
) -> torch.nn.Module:
    """AdamW under one cycle; returns a running average of the weights, which is also what is saved."""
    world, rng = build_world(), random.Random(seed)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.98))
    log.info("%s seed %d", stage, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.rate, weight_decay=0.01, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, stage.rate, stage.cycle, pct_start=0.05)
    start = time.monotonic()
    for step in range(1, stage.steps + 1):
        loss = accumulate(model, world, processor, rng, stage, arguments.batch)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        average.update_parameters(model)
        if step % 25 == 0:
            log.info("step %d loss %.4f after %.0f s", step, loss, time.monotonic() - start)
        if step % arguments.keep_every == 0 or step == stage.steps:
            save(average.module, processor, arguments.out)
    return average.module


def train(arguments: argparse.Namespace) -> None:
    """All stages, or the later ones on what an earlier one saved."""
    torch.manual_seed(SEED)
    torch.set_num_threads(arguments.threads)
    log.info("%s", vars(arguments))
    processor = build_processor()
    model: torch.nn.Module = new_model(processor)
    if arguments.resume:
        model.load_state_dict(load(arguments.resume)[0].state_dict())
    log.info("%d parameters", sum(p.numel() for p in model.parameters()))
    for number, stage in list(enumerate(STAGES))[arguments.stage :]:
        model = run_stage(stage, SEED + 1 + number, model, processor, arguments)


def main() -> None:
    """Log to the screen and to a file."""
    arguments = parse_arguments()
    handlers: list[logging.Handler] = [
        logging.StreamHandler(),
        logging.FileHandler(arguments.log, mode="a" if arguments.resume else "w"),
    ]
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=handlers)
    train(arguments)


if __name__ == "__main__":
    main()
