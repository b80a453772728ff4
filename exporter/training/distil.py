"""A steering program as a LoRA adapter: the base learns what its steered self says, and to stay as it is elsewhere.

The exact steered model is the teacher: on the forget set it says what is to be said, on everything else it is the base, to the bit. The adapter
is trained to the teacher's distributions over prompts and replies, KL(teacher || student) (https://arxiv.org/abs/1503.02531, at temperature 1). Of
each distribution the ``TOP`` most likely tokens are kept, and the rest as one: distributions over a whole vocabulary would fill a disk.

Where no gate is on, the teacher is the base, so the student is compared with its own model without the adapter, in the same pass and type: a teacher
in float32 would have a student in bfloat16 learn to undo its rounding, which changes replies in float32. Such conversations weigh ``KEPT`` times.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from exporter.digests import digest_of
from exporter.fitting.activations import model_digest
from exporter.host import ModelHost
from exporter.progress import ticked
from exporter.training.examples import Batch
from exporter.training.lora import linear_layers, taken_out, with_adapter
from exporter.training.objective import seeded
from exporter.training.settings import TrainingSettings
from exporter.training.step import Step, run_pass
from exporter.training.trainer import train
from exporter.types import Encoded
from exporter.weight_edit import WeightEdit
from steer_modules.attach import steered
from steer_modules.program import BaseModelRef, SteeringProgram

TOP = 64
"""Tokens of a distribution that are kept by themselves."""
KEPT = 4.0
"""Weight of a conversation in which no gate is on: one token that changes is a changed reply."""
METHOD = "distil"


class Lesson(NamedTuple):
    """A conversation with the teacher's distributions.

    Attributes:
        fired: whether a gate of the teacher is on behind it.
        ids: the likeliest tokens that follow each column, int32 [T, TOP].
        logprobs: of these, float16 [T, TOP].
        whole: whether the reply is one, and not the first token alone, which was asked for the decision of a gate.
    """

    sequence: Encoded
    fired: bool
    ids: Tensor
    logprobs: Tensor
    whole: bool = True


@dataclass(frozen=True)
class Divergence:
    """KL(teacher || student) in nats a token of the replies, over so many conversations.

    Attributes:
        forget, kept: where a gate of the teacher is on, and elsewhere.
        forget_same, kept_same: of those with a whole reply, shares in which the student's likeliest tokens are that reply, which greedy decoding then gives.
    """

    forget: float
    forget_rows: int
    kept: float
    kept_rows: int
    forget_same: float
    kept_same: float

    @property
    def same(self) -> float:
        """The smaller of both shares."""
        return min(self.forget_same, self.kept_same)


def lessons(
    host: ModelHost,
    program: SteeringProgram,
    sequences: Sequence[Encoded],
    fired: Sequence[bool],
    whole: Sequence[bool] | None = None,
    *,
    batch_size: int,
) -> list[Lesson]:
    """What the steered model expects behind every column of some conversations.

    Args:
        host: the unsteered base.
        fired: by conversation, whether a gate is on behind it.
        whole: by conversation, whether it has a whole reply; all of them by default.
    """
    found: dict[int, Lesson] = {}
    order = sorted(range(len(sequences)), key=lambda one: len(sequences[one]))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    with steered(host.model, program), torch.no_grad():
        for numbers in ticked(batches, "distributions of the steered model"):
            batch = host.batch([sequences[one] for one in numbers], "right")
            logits = run_pass(host.model, batch, ()).logits.float()
            top = logits.log_softmax(-1).topk(min(TOP, logits.shape[-1]), dim=-1)
            for row, number in enumerate(numbers):
                length = len(sequences[number])
                ids, values = top.indices[row, :length].int().cpu(), top.values[row, :length].half().cpu()
                said = whole is None or whole[number]
                found[number] = Lesson(sequences[number], fired[number], ids, values, said)
    return [found[number] for number in range(len(sequences))]


def divergence(logits: Tensor, ids: Tensor, logprobs: Tensor, counted: Tensor) -> Tensor:
    """KL(teacher || student) over the kept tokens and the rest as one, the mean over counted columns of each row: float32 [B].

    Args:
        logits: the student's, [B, T, V].
        ids, logprobs: the teacher's, [B, T, K].
        counted: bool [B, T].
    """
    student = logits.float().log_softmax(-1).gather(-1, ids.long())
    teacher = logprobs.float()
    rest, found = _rest(teacher), _rest(student)
    each = (teacher.exp() * (teacher - student)).sum(-1) + rest.exp() * (rest - found)
    return torch.where(counted, each, torch.zeros_like(each)).sum(-1) / counted.sum(-1).clamp_min(1)


def _rest(logprobs: Tensor) -> Tensor:
    """log of what a distribution has beyond these tokens: [B, T]; what rounding loses of a certain one is next to nothing."""
    return torch.log1p(-logprobs.exp().sum(-1).clamp(max=1 - 1e-6))


class _Balanced(Dataset[Lesson]):
    """Lessons in the order of their training: in every step as many in which a gate is on as others."""

    def __init__(self, every: Sequence[Lesson], epochs: int, seed: int) -> None:
        draw = random.Random(seed)
        fired = [one for one in every if one.fired]
        kept = [one for one in every if not one.fired]
        self.items: list[Lesson] = []
        for _ in range(epochs):
            longer, shorter = (kept, fired) if len(kept) >= len(fired) else (fired, kept)
            again = [*shorter] * (len(longer) // max(len(shorter), 1) + 1)
            draw.shuffle(again)
            draw.shuffle(longer)
            self.items += [one for pair in zip(longer, again, strict=False) for one in pair] or longer

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, item: int) -> Lesson:
        return self.items[item]


class _Collator:
    """Lessons as one batch: what the model takes, the teacher's distributions, and the columns that count."""

    def __init__(self, host: ModelHost) -> None:
        self.host = host

    def __call__(self, items: Sequence[Lesson]) -> dict[str, dict[str, Tensor]]:
        inputs = self.host.batch([one.sequence for one in items], "right")
        batch = {key: value.cpu() for key, value in inputs.items()}
        rows, width = batch["input_ids"].shape
        size = items[0].ids.shape[-1]
        ids, logprobs = torch.zeros(rows, width, size, dtype=torch.int32), torch.zeros(rows, width, size)
        counted, said = torch.zeros(2, rows, width, dtype=torch.bool)
        for row, one in enumerate(items):
            length = len(one.sequence)
            ids[row, :length], logprobs[row, :length] = one.ids, one.logprobs.float()
            counted[row, : length - 1] = True
            said[row, one.sequence.prompt_end : length - 1] = True
        fired = torch.tensor([one.fired for one in items])
        return {"lesson": {**batch, **dict(zip(_OURS, (ids, logprobs, counted, said, fired), strict=True))}}


_OURS = ("teacher_ids", "teacher_logprobs", "counted", "said", "fired")


def _loss(step: Step) -> Tensor:
    """Of a step of the training: float32 [B]."""
    batch = step.sides["lesson"]
    inputs = {key: value for key, value in batch.items() if key not in _OURS}
    ids, teacher, counted, _, fired = (batch[name] for name in _OURS)
    if not bool(fired.all()):
        teacher = teacher.clone()
        teacher[~fired] = _own(step, inputs, ~fired).gather(-1, ids[~fired].long())
    found = divergence(step.edited(inputs).logits, ids, teacher, counted)
    return torch.where(fired, found, KEPT * found)


def _own(step: Step, inputs: Batch, kept: Tensor) -> Tensor:
    """log p of the model without its adapter, of the rows that are kept: [rows, T, V]."""
    shape = inputs["input_ids"].shape
    if all(value.shape == shape for value in inputs.values()):
        logits = step.base({key: value[kept] for key, value in inputs.items()}).logits
    else:  # pixels are not by rows
        logits = step.base(inputs).logits[kept]
    return logits.float().log_softmax(-1)


def _against_teacher(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """KL of a model to the teacher as it was recorded, float32 [B], and whether it goes on as the teacher at every column of the reply, bool [B]."""
    inputs = {key: value for key, value in batch.items() if key not in _OURS}
    ids, teacher, _, said, _ = (batch[name] for name in _OURS)
    logits = run_pass(model, inputs, ()).logits
    same = (logits.argmax(-1) == ids[..., 0]) | ~said
    return divergence(logits, ids, teacher, said), same.all(-1)


def distil(
    host: ModelHost,
    program: SteeringProgram,
    fit: Sequence[Lesson],
    settings: TrainingSettings,
    *,
    work: Path,
    seed: int,
    rows: str,
    progress: bool,
) -> WeightEdit:
    """The adapter that makes the base say what its steered self says.

    Args:
        host: the unsteered base; it is the base again afterwards.
        fit: conversations of the calibration set.
        work: folder for checkpoints; a training that was stopped goes on from there.
        rows: digest of the rows that the conversations are made of.

    Raises:
        FitError: the model has no layer to edit, or the training diverged.
    """
    inputs = [
        METHOD,
        settings.model_dump(),
        seed,
        rows,
        program.sha256,
        model_digest(host.model),
        str(host.dtype),
    ]
    names = linear_layers(host.model, vision=settings.vision)
    with seeded(seed), with_adapter(host.model, names, rank=settings.rank, alpha=settings.alpha) as tuned:
        train(
            tuned,
            _loss,
            _Balanced(fit, settings.epochs, seed),
            _Collator(host),
            settings,
            work=work / digest_of(inputs)[:32],
            seed=seed,
            device=host.device,
            progress=progress,
        )
        config, tensors = taken_out(tuned)
    base = BaseModelRef(host.architecture, host.model_type, program.base.fingerprint)
    return WeightEdit(METHOD, base, seed, rows, config, tensors)


def measured(host: ModelHost, held: Sequence[Lesson], *, batch_size: int) -> Divergence:
    """How far a model lies from its teacher on conversations that it was not trained on; the host is the student."""
    collate, values = _Collator(host), dict[bool, list[tuple[float, bool | None]]]({True: [], False: []})
    order = sorted(held, key=lambda one: len(one.sequence))
    for start in range(0, len(order), batch_size):
        some = order[start : start + batch_size]
        batch: Mapping[str, Tensor] = {
            key: one.to(host.device) for key, one in collate(some)["lesson"].items()
        }
        with torch.no_grad():
            far, same = _against_teacher(host.model, batch)
            for one, value, equal in zip(some, far.tolist(), same.tolist(), strict=True):
                values[one.fired].append((value, equal if one.whole else None))
    mean = {fired: _means(some) for fired, some in values.items()}
    (forget, forget_same), (kept, kept_same) = mean[True], mean[False]
    return Divergence(forget, len(values[True]), kept, len(values[False]), forget_same, kept_same)


def _means(found: Sequence[tuple[float, bool | None]]) -> tuple[float, float]:
    """Mean divergence, and share of the same replies among whole ones; 0 and 1 of none."""
    same = [equal for _, equal in found if equal is not None]
    far = sum(value for value, _ in found) / len(found) if found else 0.0
    return far, sum(same) / len(same) if same else 1.0
