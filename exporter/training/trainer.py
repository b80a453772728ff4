"""The one trainer: ``transformers.Trainer`` on accelerate, with the loss of an objective.

Devices, processes, gradient accumulation and FSDP are its business; so are checkpoints, from which a training that was killed goes on.
"""

from __future__ import annotations

import json
import logging
import shutil
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from peft.helpers import disable_input_dtype_casting
from torch import Tensor
from torch.utils.data import Dataset, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from exporter.atomic import write_json
from exporter.digests import digest_of_file
from exporter.training.precision import in_bfloat16
from exporter.training.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Sized

    from exporter.training.settings import TrainingSettings

LOG = logging.getLogger(__name__)
WHOLE = "whole.json"
"""Of a checkpoint: the digests of its files, once all are there."""
T = TypeVar("T")
_PATIENCE = timedelta(days=2)
"""How long a process waits for the others: the main one may fit a steering method before."""


class EditTrainer(Trainer):
    """Trains the adapter of a ``PeftModel`` on the loss of an objective.

    Args:
        loss: of a step, float32 [B]; its mean over all processes and accumulated batches is descended.
    """

    def __init__(self, loss: Callable[[Step], Tensor], examples: Dataset[Any], **options: Any) -> None:
        super().__init__(train_dataset=examples, **options)
        self._loss, self._examples = loss, examples
        self.model_accepts_loss_kwargs = False  # so that accumulated batches are averaged, not summed

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        del return_outputs, num_items_in_batch
        step = Step(model, self.accelerator.unwrap_model(model), inputs)
        return self._loss(step).mean()

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        """The order is the examples' own, the same in every process and after a restart."""
        del train_dataset
        return SequentialSampler(cast("Sized", self._examples))


def train(
    tuned: Any,
    loss: Callable[[Step], Tensor],
    examples: Dataset[Any],
    collator: Callable[[list[Any]], dict[str, Any]],
    settings: TrainingSettings,
    *,
    work: Path,
    seed: int,
    device: torch.device,
    progress: bool,
) -> list[dict[str, float]]:
    """Trains the adapter of ``tuned`` in place.

    Args:
        work: folder of the checkpoints, of this training alone; one that is found there is resumed, and it is removed at the end.

    Returns:
        The loss by step, as logged.
    """
    cpu = device.type == "cpu"
    place = _of_main(str(work), cpu=cpu)
    trainer = EditTrainer(
        loss,
        examples,
        model=tuned,
        args=_arguments(settings, place, seed=seed, device=device, progress=progress),
        data_collator=collator,
        callbacks=[Whole()],
    )
    trainer.remove_callback(PrinterCallback)  # losses are in the record of the fit
    last = _of_main(last_whole(Path(place)) if trainer.is_world_process_zero() else None, cpu=cpu)
    if last is not None:
        LOG.info("training goes on from %s", Path(last).name)
    # Under autocast peft's cast to the adapter's float32 is undone by the next product; without it nothing changes but the time.
    with disable_input_dtype_casting(tuned, active=trainer.args.bf16):
        trainer.train(resume_from_checkpoint=last)
    found = [one for one in trainer.state.log_history if "loss" in one]
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        shutil.rmtree(place, ignore_errors=True)
    return [{"step": float(one["step"]), "loss": float(one["loss"])} for one in found]


def _arguments(
    settings: TrainingSettings, place: str, *, seed: int, device: torch.device, progress: bool
) -> TrainingArguments:
    """How ``transformers.Trainer`` trains by these settings, with its checkpoints in ``place``."""
    return TrainingArguments(
        output_dir=place,
        num_train_epochs=1,  # the examples hold every epoch, in order
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.tried[0],
        lr_scheduler_type="linear",
        warmup_steps=settings.warmup,
        weight_decay=0.0,
        max_grad_norm=settings.clip,
        bf16=in_bfloat16(settings.precision, device),
        use_cpu=device.type == "cpu",
        seed=seed,
        data_seed=seed,
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=2,  # the older one goes once the newer is whole
        logging_steps=settings.log_steps,
        report_to="none",
        disable_tqdm=not progress,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
        average_tokens_across_devices=False,
    )


def last_whole(place: Path) -> str | None:
    """The last checkpoint that was written to its end and not changed since; what a killed process left of another is removed."""
    for folder in sorted(
        place.glob("checkpoint-*"), key=lambda one: int(one.name.rpartition("-")[2]), reverse=True
    ):
        try:
            noted = json.loads((folder / WHOLE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            noted = None
        if noted is not None and noted == _digests(folder):
            return str(folder)
        shutil.rmtree(folder, ignore_errors=True)
    return None


def _digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): digest_of_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != WHOLE
    }


class Whole(TrainerCallback):
    """Notes in a checkpoint that all of it is there; the last thing that is written."""

    def on_save(self, args: TrainingArguments, state: Any, control: Any, **rest: Any) -> None:
        del control, rest
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            write_json(folder / WHOLE, _digests(folder))


def _of_main(value: T, *, cpu: bool) -> T:
    """The main process's value, in every process that trains along."""
    state = PartialState(cpu=cpu, timeout=_PATIENCE)
    if state.num_processes == 1:
        return value
    shared = [value]
    broadcast_object_list(shared)
    return shared[0]
