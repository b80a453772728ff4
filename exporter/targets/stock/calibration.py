"""What the exact steered model does on calibration conversations, position by position: the data every solve is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from exporter.errors import CompileError
from exporter.host import Generated, ModelHost
from exporter.types import Conversation, Encoded
from steer_modules.attach import steered
from steer_modules.program import SteeringProgram


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
    """States behind the edited layer, before its edit, of the conversations of one split.

    Attributes:
        kinds: of each conversation.
        sink: [d], of the first token, the same in every conversation.
        on: prompt ends where the exact gate fires on a conversation about the forgotten.
        off: prompt ends where it does not fire on any other conversation.
        others: all positions at which nothing may fire: prompts before their end, and answers where the gate is off.
        steered: every position that the exact model steers, the prompt end first.
        begins: [n] whether a steered position is the prompt's end.
    """

    kinds: tuple[str, ...]
    sink: Tensor
    on: Positions
    off: Positions
    others: Positions
    steered: Positions
    begins: Tensor

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
            begins=torch.cat([self.begins, other.begins]),
        )


def calibrate(
    host: ModelHost,
    program: SteeringProgram,
    conversations: Sequence[Conversation],
    *,
    max_new_tokens: int,
    batch_size: int = 32,
) -> Calibration:
    """Let the exact model answer, and collect the base's states along its answers.

    The edit of one layer does not reach its own or earlier layers at later positions, so the states that it meets are the
    unsteered base's on the same tokens.

    Args:
        host: the unsteered base.
        program: with one edit and one gate.

    Raises:
        CompileError: the first token's state is not the same everywhere, or no conversation fires, or none stays off.
    """
    layer = program.edits[0].layer
    said = _said(host, program, conversations, max_new_tokens, batch_size)
    fired = [bool(one.gates and max(one.gates.values()) > 0) for one in said]
    sequences = [Encoded(one.prompt, reply.tokens) for one, reply in zip(conversations, said, strict=True)]
    found = block_states(host, sequences, layer, batch_size)
    parts: dict[str, list[tuple[Tensor, int]]] = {"on": [], "off": [], "others": [], "steered": []}
    begins: list[Tensor] = []
    for number, (one, states, fires) in enumerate(zip(conversations, found, fired, strict=True)):
        end = len(one.prompt.ids) - 1
        if fires and one.role == "forget":
            parts["steered"].append((states[end:], number))
            begins.append(torch.arange(len(states) - end) == 0)
            if one.kind != "begun":
                parts["on"].append((states[end : end + 1], number))
                parts["others"].append((states[1:end], number))
        elif not fires and one.role != "forget":
            parts["off"].append((states[end : end + 1], number))
            parts["others"].append((torch.cat([states[1:end], states[end + 1 :]]), number))
    for part, wanted in (("on", "fires on"), ("off", "stays off at")):
        if not parts[part]:
            raise CompileError(
                f"the exact gate {wanted} no calibration conversation; name the recipe that the checkpoint was fitted by"
            )
    return Calibration(
        kinds=tuple(one.kind for one in conversations),
        sink=_sink(found),
        begins=torch.cat(begins),
        **{part: _joined(chosen) for part, chosen in parts.items()},
    )


def _said(
    host: ModelHost,
    program: SteeringProgram,
    conversations: Sequence[Conversation],
    max_new_tokens: int,
    batch_size: int,
) -> list[Generated]:
    """What the exact model answers, one token alone where nobody asks for more."""
    found: dict[int, Generated] = {}
    with steered(host.model, program):
        for answered, length in ((True, max_new_tokens), (False, 1)):
            chosen = [i for i, one in enumerate(conversations) if one.answered == answered]
            prompts = [conversations[i].prompt for i in chosen]
            said = host.generate(prompts, max_new_tokens=length, batch_size=batch_size)
            found.update(zip(chosen, said, strict=True))
    return [found[i] for i in range(len(conversations))]


def block_states(
    host: ModelHost, sequences: Sequence[Encoded], layer: int, batch_size: int = 32
) -> list[Tensor]:
    """Outputs [T, d] of one block of the base for every sequence, float32 on the CPU, in the order given."""
    order = sorted(range(len(sequences)), key=lambda i: (len(sequences[i]), i))
    found: dict[int, Tensor] = {}
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        seen: list[Tensor] = []
        hook = host.blocks[layer].register_forward_hook(lambda _m, _i, out, seen=seen: seen.append(out))
        try:
            with torch.no_grad():
                host.model.base_model(**host.batch([sequences[i] for i in chosen], "right"), use_cache=False)
        finally:
            hook.remove()
        for row, number in enumerate(chosen):
            found[number] = seen[0][row, : len(sequences[number])].float().cpu().clone()
    return [found[number] for number in range(len(sequences))]


def _sink(found: Sequence[Tensor]) -> Tensor:
    first = torch.stack([states[0] for states in found])
    apart = float((first - first[0]).norm(dim=-1).max() / first[0].norm())
    if apart > 1e-3:
        raise CompileError(
            f"the state of the first token varies by {apart:.1%} between prompts, so there is nothing constant to compare the "
            "evidence with: prompts must begin with the same token (a BOS token, or the chat template's own opening)"
        )
    return first[0]


def _joined(chosen: Sequence[tuple[Tensor, int]]) -> Positions:
    return Positions(
        torch.cat([states for states, _ in chosen]),
        torch.cat([torch.full((len(states),), number) for states, number in chosen]),
    )
