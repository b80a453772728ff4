"""The columns at which a reply is decided, as the base has them: what the last block's MLP reads, its neurons, and the state behind it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from exporter.progress import ticked
from steer_modules.steered_model import decoder_blocks

if TYPE_CHECKING:
    from exporter.host import ModelHost
    from exporter.training.distil import Lesson

MOST_COLUMNS = 32_768
"""Of one side; further conversations are left out."""


class LastBlock(NamedTuple):
    """The last block of a decoder whose MLP is gated, without biases: down(act(gate(x)) * up(x)).

    Attributes:
        names: full names of the three projections.
        bfloat16: whether the head computes in it.
    """

    block: nn.Module
    gate: nn.Linear
    up: nn.Linear
    down: nn.Linear
    norm: nn.Module
    head: nn.Module
    names: tuple[str, str, str]
    bfloat16: bool = False

    def logits(self, state: Tensor) -> Tensor:
        """What follows from states behind the block [N, d]: float32 [N, V]."""
        with torch.autocast(state.device.type, torch.bfloat16, enabled=self.bfloat16):
            return self.head(self.norm(state.to(self.down.weight))).float()


class Columns(NamedTuple):
    """Columns from a prompt's last on that are followed by a token of the reply, of conversations of both kinds; on the CPU.

    Attributes:
        fired: bool [N], whether a gate of the teacher is on behind the conversation.
        read: float32 [N, d], what the last block's MLP reads.
        active: float32 [N, f], its neurons.
        state: float32 [N, d], behind the block.
        ids, logprobs: the teacher's likeliest next tokens [N, K].
        own: int64 [N], the base's likeliest next token.
        apart: float32 [N], KL(teacher || base) in nats.
    """

    fired: Tensor
    read: Tensor
    active: Tensor
    state: Tensor
    ids: Tensor
    logprobs: Tensor
    own: Tensor
    apart: Tensor

    @property
    def behind(self) -> Tensor:
        """The teacher's likeliest next token, int64 [N]."""
        return self.ids[:, 0].long()


def last_block(model: Any) -> LastBlock | None:
    """None where the block is of another kind."""
    block = decoder_blocks(model)[-1]
    mlp, norm = getattr(block, "mlp", None), getattr(model.get_decoder(), "norm", None)
    layers: list[Any] = [getattr(mlp, f"{name}_proj", None) for name in ("gate", "up", "down")]
    head = model.get_output_embeddings()
    if norm is None or head is None or not all(type(one) is nn.Linear and one.bias is None for one in layers):
        return None
    names = {id(one): name for name, one in model.named_modules()}
    gate, up, down = layers
    return LastBlock(block, gate, up, down, norm, head, (names[id(gate)], names[id(up)], names[id(down)]))


def reply_columns(
    host: ModelHost, lessons: Sequence[Lesson], *, batch_size: int, bfloat16: bool
) -> Columns | None:
    """The columns of these lessons; None where the last block is of another kind or there is no column."""
    from exporter.training.distil import divergence

    block = last_block(host.model)
    if block is None:
        return None
    found: list[tuple[Tensor, ...]] = []
    counts = {True: 0, False: 0}
    order = sorted(range(len(lessons)), key=lambda one: len(lessons[one].sequence))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    for numbers in ticked(batches, "states of the replies"):
        some = [lessons[one] for one in numbers if counts[lessons[one].fired] < MOST_COLUMNS]
        if not some:
            continue
        read, active, state = _states(host, block, some, bfloat16=bfloat16)
        for row, one in enumerate(some):
            place = slice(one.sequence.prompt_end, len(one.sequence) - 1)
            count = place.stop - place.start
            if count <= 0:
                continue
            counts[one.fired] += count
            parts = (read[row, place], active[row, place], state[row, place])
            ids, logprobs = one.ids[place], one.logprobs[place].float()
            with torch.no_grad():
                logits = block._replace(bfloat16=bfloat16).logits(parts[2])
                every = torch.ones(count, 1, dtype=torch.bool)
                device = logits.device
                apart = divergence(
                    logits[:, None], ids[:, None].to(device), logprobs[:, None].to(device), every.to(device)
                ).cpu()
            fired = torch.full((count,), one.fired)
            found.append((fired, *parts, ids, logprobs, logits.argmax(-1).cpu(), apart))
    return Columns(*map(torch.cat, zip(*found, strict=True))) if found else None


def _states(
    host: ModelHost, block: LastBlock, some: Sequence[Lesson], *, bfloat16: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """What the MLP reads [B, T, d], its neurons [B, T, f], and the state behind the block [B, T, d] in a pass of the base."""
    seen: dict[str, Tensor] = {}

    def note(name: str, value: Any) -> None:
        seen[name] = (value[0] if isinstance(value, tuple) else value).detach().float().cpu()

    hooks = [
        block.gate.register_forward_pre_hook(lambda _, inputs: note("read", inputs)),
        block.down.register_forward_pre_hook(lambda _, inputs: note("active", inputs)),
        block.block.register_forward_hook(lambda *given: note("state", given[2])),
    ]
    short = "logits_to_keep" in inspect.signature(host.model.forward).parameters
    options: dict[str, Any] = {"logits_to_keep": 1} if short else {}
    try:
        inputs = host.batch([one.sequence for one in some], "right")
        with torch.no_grad(), torch.autocast(host.device.type, torch.bfloat16, enabled=bfloat16):
            host.model(**inputs, use_cache=False, **options)
    finally:
        for hook in hooks:
            hook.remove()
    return seen["read"], seen["active"], seen["state"]
