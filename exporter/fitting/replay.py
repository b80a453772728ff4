"""Trials without generation: whether a steered model says a known reply, in one pass above the blocks that steer.

Greedy decoding says y behind a prompt exactly if, at every column of y, the likeliest token is y's next one. So a reply that is known (the
base's own, a refusal) is checked in one pass over prompt and reply instead of a pass a token. A column's states depend on the
tokens up to it alone, and below the first edit they are the base's: those are stored once, and put in place of what the blocks
below would compute. What a gate reads there is read from the same states.

Sums of one pass and of a pass a token differ in their last bits, so two tokens that are equally likely to rounding may change places.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from exporter.fitting.activations import Activations
from exporter.fitting.context import FitContext
from exporter.fitting.pooling import PooledSequence
from exporter.host import ModelHost
from exporter.types import Encoded, Prompt
from steer_modules.attach import steered
from steer_modules.program import SteeringProgram

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Script:
    """Prompts with known replies, and the base's states at every column of them."""

    sequences: tuple[Encoded, ...]
    states: Activations

    @classmethod
    def of(
        cls,
        context: FitContext,
        prompts: Sequence[Prompt],
        replies: Sequence[tuple[int, ...]],
        layers: Sequence[int],
    ) -> Script:
        """States of the base, collected where they are not stored yet."""
        sequences = [Encoded(prompt, reply) for prompt, reply in zip(prompts, replies, strict=True)]
        items = [PooledSequence(one, tuple((column,) for column in range(len(one)))) for one in sequences]
        return cls(tuple(sequences), context.collect(items, layers, "states of known replies"))


class Replay:
    """Checks known replies of one model.

    Args:
        layers: blocks whose states are stored: those that any program edits first, or reads below its first edit.
    """

    def __init__(self, context: FitContext, layers: Sequence[int]) -> None:
        self.context, self.layers = context, tuple(sorted(layers))

    def script(self, prompts: Sequence[Prompt], replies: Sequence[tuple[int, ...]]) -> Script:
        """Known replies, ready to be checked."""
        return Script.of(self.context, prompts, replies, self.layers)

    def works(self, script: Script) -> bool:
        """Whether the unsteered model says its own replies from stored states; it does not where blocks exchange more than states."""
        ends = {self.layers[0], self.layers[-1]}
        try:
            found = all(
                all(self._says(None, script, range(len(script.sequences)), (layer,))) for layer in ends
            )
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
            LOG.info("trials generate: %s", " ".join(str(error).split())[:200])
            return False
        if not found:
            LOG.info("trials generate: from stored states the model does not say what it says by itself")
        return found

    def fits(self, program: SteeringProgram) -> bool:
        """Whether the states that a program needs are stored."""
        return bool(program.edits) and set(_fed(program)) <= set(self.layers)

    def says(self, program: SteeringProgram, script: Script, which: Sequence[int]) -> list[bool]:
        """Of the replies number ``which``, those that the steered model says token for token."""
        return self._says(program, script, which, _fed(program))

    def _says(
        self, program: SteeringProgram | None, script: Script, which: Sequence[int], fed: Sequence[int]
    ) -> list[bool]:
        host, found = self.context.host, dict[int, bool]()
        order = sorted(which, key=lambda one: (len(script.sequences[one]), one))
        size = self.context.batch_size
        # Blocks are handed states before the model is steered: a steered one holds its modules to what they were then.
        with (
            _handed(host.blocks, fed) as states,
            nullcontext() if program is None else steered(host.model, program),
        ):
            for first in range(0, len(order), size):
                numbers = order[first : first + size]
                found |= dict(zip(numbers, _batch(host, script, numbers, states), strict=True))
        return [found[one] for one in which]


def _fed(program: SteeringProgram) -> tuple[int, ...]:
    """Blocks whose outputs a pass is handed: the first edited one, and those below it that a gate reads."""
    first = min(edit.layer for edit in program.edits)
    return tuple(sorted({first, *(gate.layer for gate in program.gates if gate.layer < first)}))


def _batch(host: ModelHost, script: Script, numbers: Sequence[int], states: dict[int, Tensor]) -> list[bool]:
    """Whether each of some replies is said, in one pass above the last block of ``states``, which are filled here."""
    sequences = [script.sequences[one] for one in numbers]
    inputs: dict[str, Any] = dict(host.batch(sequences, "left"))
    width = inputs["input_ids"].shape[1]
    spatial = hasattr(host.model.base_model, "get_rope_index")  # it counts positions by the images
    if not spatial:
        inputs = {key: value for key, value in inputs.items() if value.shape == inputs["input_ids"].shape}
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp_min(0)
    longest = max(len(one.response) for one in sequences) + 1
    if "logits_to_keep" in inspect.signature(type(host.model).forward).parameters:
        inputs["logits_to_keep"] = longest
    states.update({layer: _padded(script, numbers, layer, width, host) for layer in states})
    with torch.no_grad():
        said = host.model(**inputs, use_cache=False).logits[:, -longest:].argmax(-1).cpu()
    found = []
    for row, one in enumerate(sequences):
        length = len(one.response)
        found.append(tuple(said[row, longest - 1 - length : longest - 1].tolist()) == one.response)
    return found


def _padded(script: Script, numbers: Sequence[int], layer: int, width: int, host: ModelHost) -> Tensor:
    """States [B,T,d] of one block, in the model's type, padded on the left."""
    found = torch.zeros(len(numbers), width, host.hidden_size)
    for row, number in enumerate(numbers):
        states = script.states.of(number, layer)
        found[row, width - len(states) :] = states
    return found.to(host.dtype)


@contextmanager
def _handed(blocks: nn.ModuleList, fed: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Blocks of ``fed`` return what is put for them into the mapping that is yielded; others below the last of them pass on what they are given.

    Hooks run as always.
    """
    states = {index: torch.empty(0) for index in fed}
    below = [blocks[index] for index in range(max(fed) + 1)]
    before = [vars(block).get("forward") for block in below]  # accelerate puts its own there
    for index, block in enumerate(below):
        block.forward = partial(_stored, states, index) if index in states else _passed
    try:
        yield states
    finally:
        for block, own in zip(below, before, strict=True):
            if own is None:
                del block.forward
            else:
                block.forward = own


def _stored(
    states: Mapping[int, Tensor], index: int, hidden_states: Tensor, *_: object, **__: object
) -> Tensor:
    return states[index].to(hidden_states.device)


def _passed(hidden_states: Tensor, *_: object, **__: object) -> Tensor:
    return hidden_states
