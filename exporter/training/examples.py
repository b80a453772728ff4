"""What a weight edit is trained on: conversations of the forget set, each with one of the retain set and one refused."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from exporter.errors import DataError
from exporter.fitting.context import FitContext
from exporter.fitting.refusals import wordings
from exporter.host import ModelHost
from exporter.types import Encoded, Row

Responses = Literal["own", "rows"]
Batch = Mapping[str, Tensor]
"""``input_ids``, ``attention_mask`` and what else the model takes, padded on the right; and ``labels`` int64 [B, T], -100 but on the
response; ``reasoning`` and ``answer`` bool [B, T], the columns of these spans."""
SIDES = ("forget", "retain", "reasoning", "refusal", "other")
"""The parts of a step. ``refusal``: the prompt of the forget conversation, answered by a refusal. ``other``: the same prompt, answered as another
prompt of the forget set is. ``reasoning``: general reasoning; where there are no rows of that role, another conversation of the retain set."""


def responding(batch: Batch) -> Tensor:
    """The columns that hold a token of the response, and the one before it: bool [B, T]."""
    labelled = batch["labels"] != -100
    return labelled | labelled.roll(-1, dims=-1)


class Together(NamedTuple):
    """What one item of a step is made of; a side is None where its objective does not read it."""

    forget: Encoded
    retain: Encoded | None = None
    reasoning: Encoded | None = None
    refusal: Encoded | None = None
    other: Encoded | None = None


@dataclass(frozen=True)
class Examples(Dataset[Together]):
    """Every forget conversation once an epoch, in random order; the other sides go round in theirs.

    The order is a function of the seed alone, so that it is the same in every process and after a restart.

    Attributes:
        refusals: of the forget conversation at the same place.
        order: of each item, epoch after epoch: its place on three sides, and a number that chooses of the rest.
        mixed: whether items have the side ``other``.
    """

    forget: tuple[Encoded, ...]
    retain: tuple[Encoded, ...]
    reasoning: tuple[Encoded, ...]
    refusals: tuple[tuple[Encoded, ...], ...]
    order: tuple[tuple[int, int, int, int], ...]
    mixed: bool = False

    @classmethod
    def of(
        cls,
        forget: Sequence[Encoded],
        retain: Sequence[Encoded],
        reasoning: Sequence[Encoded],
        refusals: Sequence[Sequence[Encoded]],
        *,
        epochs: int,
        seed: int,
    ) -> Examples:
        """Examples in the order of their training."""
        draw = random.Random(seed)
        length = epochs * len(forget)
        places = (_rounds(len(side), length, draw) for side in (forget, retain, reasoning))
        which = [draw.randrange(1 << 30) for _ in range(length)]
        order = tuple(zip(*places, which, strict=True))
        return cls(tuple(forget), tuple(retain), tuple(reasoning), tuple(map(tuple, refusals)), order)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, item: int) -> Together:
        forget, retain, reasoning, which = self.order[item]
        refused = self.refusals[forget] if self.refusals else ()
        return Together(
            self.forget[forget],
            self.retain[retain] if self.retain else None,
            self.reasoning[reasoning] if self.reasoning else None,
            refused[which % len(refused)] if refused else None,
            self._other(forget, which) if self.mixed else None,
        )

    def _other(self, place: int, which: int) -> Encoded:
        """A forget prompt with a response to another that its own is not."""
        own = self.forget[place]
        others = [one for one in self.forget if one.response != own.response]
        return Encoded(own.prompt, others[which % len(others)].response)


def examples(context: FitContext, *, responses: Responses, epochs: int, sides: frozenset[str]) -> Examples:
    """The fit rows as conversations.

    Args:
        responses: of forget and retain rows; "own", what the base itself generates, which is what it must no longer say and what it must
            keep saying; "rows", the rows' own answers, as in the papers.
        sides: what the objective reads; the others are left out.

    Raises:
        DataError: there are no rows for a side.
    """
    forget = context.need("fit", "forget")
    retain = context.need("fit", "retain", "reasoning") if {"retain", "reasoning"} & sides else ()
    general = tuple(row for row in retain if row.role == "reasoning") or retain
    refusals: list[list[Encoded]] = []
    if "refusal" in sides:
        chosen = wordings(context)
        for row in context.filled(forget):
            plain = replace(row, reasoning=None)
            refusals.append(
                [
                    context.chat.encode(plain, answer=one.answer, reasoning=one.reasoning or "")
                    for one in chosen
                ]
            )
    found = Examples.of(
        _conversations(context, forget, responses),
        _conversations(context, retain, responses),
        _conversations(context, general, responses) if "reasoning" in sides else (),
        refusals,
        epochs=epochs,
        seed=context.seed,
    )
    if "other" in sides and len({one.response for one in found.forget}) < 2:
        raise DataError(
            "this method answers forget prompts as other forget prompts are answered, and all are answered alike; add forget rows"
        )
    return replace(found, mixed="other" in sides)


def _conversations(context: FitContext, rows: Sequence[Row], responses: Responses) -> list[Encoded]:
    filled = context.filled(rows)
    if responses == "rows":
        return [context.chat.encode(row) for row in filled]
    prompts = [context.chat.prompt(row) for row in filled]
    said = context.own(prompts)
    empty = [row.id for row, one in zip(filled, said, strict=True) if not one.tokens]
    if empty:
        raise DataError(
            f"the base generates nothing for row {empty[0]}; remove the row, or set responses: rows"
        )
    return [context.chat.continue_with(prompt, one.tokens) for prompt, one in zip(prompts, said, strict=True)]


def _rounds(count: int, length: int, draw: random.Random) -> list[int]:
    """``length`` places of ``count`` things: all of them, then all again in another order."""
    found: list[int] = []
    while count and len(found) < length:
        again = list(range(count))
        draw.shuffle(again)
        found += again
    return found[:length] or [0] * length


class Collator:
    """Items of a step as batches by side, on the CPU; the trainer moves them."""

    def __init__(self, host: ModelHost) -> None:
        self.host = host

    def __call__(self, items: Sequence[Together]) -> dict[str, dict[str, Tensor]]:
        """The batch of every side that the items have."""
        found = {}
        for side in SIDES:
            sequences = [one for one in (getattr(item, side) for item in items) if one is not None]
            if sequences:
                found[side] = self._batch(sequences)
        return found

    def _batch(self, sequences: Sequence[Encoded]) -> dict[str, Tensor]:
        batch = {key: value.cpu() for key, value in self.host.batch(sequences, "right").items()}
        ids = batch["input_ids"]
        labels = torch.full_like(ids, -100)
        spans = {name: torch.zeros_like(ids, dtype=torch.bool) for name in ("reasoning", "answer")}
        for row, one in enumerate(sequences):
            start = len(one.prompt.ids)
            labels[row, start : len(one)] = ids[row, start : len(one)]
            for name, mask in spans.items():
                if (span := getattr(one, name)) is not None:
                    mask[row, span.start : span.stop] = True
        return {**batch, "labels": labels, **spans}
