"""What the exact steered model does on calibration conversations, position by position: the data every solve is made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from exporter.errors import CompileError
from exporter.host import ModelHost
from exporter.targets.answers import Answers
from exporter.types import Encoded


@dataclass(frozen=True)
class Positions:
    """States [n, d] of some positions, float32, with the number of the conversation each belongs to [n]."""

    states: Tensor
    owner: Tensor

    def __len__(self) -> int:
        return len(self.states)

    def joined(self, other: Positions, shift: int) -> Positions:
        """Both, the other's conversations counted from ``shift`` on."""
        return Positions(torch.cat([self.states, other.states]), torch.cat([self.owner, other.owner + shift]))


@dataclass(frozen=True)
class Calibration:
    """States behind one layer of the unsteered base, in the conversations of one split.

    Attributes:
        kinds: of each conversation.
        sink: [d], of the first token, the same in every conversation.
        on: prompt ends where the exact gate fires on a conversation about the forgotten.
        off: prompt ends where it does not fire on any other conversation.
        others: all positions at which nothing may fire: prompts before their end, and answers where the gate is off.
        steered: every position that the exact model steers, the prompt end first.
    """

    kinds: tuple[str, ...]
    sink: Tensor
    on: Positions
    off: Positions
    others: Positions
    steered: Positions

    def joined(self, other: Calibration) -> Calibration:
        """The conversations of both."""
        count = len(self.kinds)
        return Calibration(
            kinds=(*self.kinds, *other.kinds),
            sink=self.sink,
            on=self.on.joined(other.on, count),
            off=self.off.joined(other.off, count),
            others=self.others.joined(other.others, count),
            steered=self.steered.joined(other.steered, count),
        )


Change = Callable[[Tensor], Tensor]
"""What stands behind a layer: states [n, d] to states [n, d]."""


def calibrate(
    host: ModelHost, answers: Answers, layers: Sequence[int], *, batch_size: int = 32
) -> dict[int, Calibration]:
    """The base's states along the exact model's answers, behind each of ``layers``.

    The edit of one layer does not reach its own or earlier layers at later positions, so the states that it meets are the
    unsteered base's on the same tokens.

    Raises:
        CompileError: the first token's state is not the same everywhere, or no conversation fires, or none stays off.
    """
    chosen: dict[int, dict[str, list[tuple[Tensor, int]]]] = {
        layer: {part: [] for part in ("on", "off", "others", "steered")} for layer in layers
    }
    first: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    about = set(answers.steered)
    for number, found in block_states(host, answers.sequences, layers, batch_size=batch_size):
        one, end = answers.conversations[number], answers.end(number)
        for layer, states in found.items():
            parts = chosen[layer]
            first[layer].append(states[0])
            if number in about:
                parts["steered"].append((states[end:], number))
                if one.kind != "begun":
                    parts["on"].append((states[end : end + 1], number))
                    parts["others"].append((states[1:end], number))
            elif not answers.fired[number] and one.role != "forget":
                parts["off"].append((states[end : end + 1], number))
                parts["others"].append((torch.cat([states[1:end], states[end + 1 :]]), number))
    for part, wanted in (("on", "fires on"), ("off", "stays off at")):
        if not chosen[layers[0]][part]:
            raise CompileError(
                f"the exact gate {wanted} no calibration conversation; give the recipe that the checkpoint was fitted with"
            )
    kinds = tuple(one.kind for one in answers.conversations)
    return {
        layer: Calibration(
            kinds, _sink(first[layer]), **{part: _joined(some) for part, some in parts.items()}
        )
        for layer, parts in chosen.items()
    }


def steered_behind(
    host: ModelHost, answers: Answers, layer: int, at: int, change: Change, *, batch_size: int = 32
) -> tuple[Positions, Positions]:
    """``steered`` and ``on`` behind ``layer`` of a base whose states behind block ``at`` are changed.

    Returns:
        As in the Calibration of ``layer``: the same positions in the same order.
    """
    about = answers.steered
    sequences = [answers.sequences[i] for i in about]
    steered_, on = [], []
    for place, found in block_states(host, sequences, [layer], changes={at: change}, batch_size=batch_size):
        number, states = about[place], found[layer]
        end = answers.end(number)
        steered_.append((states[end:], number))
        if answers.conversations[number].kind != "begun":
            on.append((states[end : end + 1], number))
    return _joined(steered_), _joined(on)


def block_states(
    host: ModelHost,
    sequences: Sequence[Encoded],
    layers: Sequence[int],
    *,
    changes: Mapping[int, Change] | None = None,
    batch_size: int = 32,
) -> Iterator[tuple[int, dict[int, Tensor]]]:
    """Outputs [T, d] of some blocks of the base for every sequence, float32 on the CPU, in the order given.

    Args:
        changes: what the outputs of some blocks are put through before the next block reads them.

    Yields:
        The number of a sequence, and its states by layer.
    """
    order = sorted(range(len(sequences)), key=lambda i: (len(sequences[i]), i))
    found: dict[int, dict[int, Tensor]] = {}
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        seen: dict[int, Tensor] = {}
        hooks = [
            _hook(host, layer, seen, (changes or {}).get(layer)) for layer in {*layers, *(changes or {})}
        ]
        try:
            with torch.no_grad():
                host.model.base_model(**host.batch([sequences[i] for i in chosen], "right"), use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        for row, number in enumerate(chosen):
            size = len(sequences[number])
            found[number] = {layer: seen[layer][row, :size].float().cpu().clone() for layer in layers}
    return iter(sorted(found.items()))


def _hook(host: ModelHost, layer: int, seen: dict[int, Tensor], change: Change | None) -> Any:
    def behind(_module: object, _inputs: object, out: Tensor) -> Tensor:
        if change is not None:
            out = change(out.reshape(-1, out.shape[-1])).to(out.dtype).reshape(out.shape)
        seen[layer] = out
        return out

    return host.blocks[layer].register_forward_hook(behind)


def _sink(found: Sequence[Tensor]) -> Tensor:
    first = torch.stack(list(found))
    apart = float((first - first[0]).norm(dim=-1).max() / first[0].norm())
    if apart > 1e-3:
        raise CompileError(
            f"the state of the first token varies by {apart:.1%} between prompts, so the gate classifier has no constant reference: "
            "prompts must begin with the same token (a BOS token, or the first token of the chat template)"
        )
    return first[0]


def _joined(chosen: Sequence[tuple[Tensor, int]]) -> Positions:
    return Positions(
        torch.cat([states for states, _ in chosen]),
        torch.cat([torch.full((len(states),), number) for states, number in chosen]),
    )
