"""SteeringCall: what one forward pass knows about its prompt. Made per call, never kept on a module."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Share = Literal["none", "some", "all"]


def shares(gate: Tensor) -> tuple[Share, ...]:
    """For each gate of [B, G], how many rows it fires for. Waits for the device."""
    rows = gate.shape[0]
    counts = (gate > 0).sum(0).tolist()
    return tuple("none" if not n else "all" if n == rows else "some" for n in counts)


@dataclass
class GateState:
    """What a cache remembers of the gates: decided once, carried through the answer.

    gate: [B, G] float32, 1 or 0, in the order of the gates that are not pooled per token.
    first_end: [B] column of the first prompt's end; positions count from here.
    on: for each gate, whether no, some or every row fires (known on the host, so that nothing is computed in vain);
        None while tracing.
    last_end: the largest of first_end, on the host; None while tracing.
    """

    gate: Tensor
    first_end: Tensor
    on: tuple[Share, ...] | None
    last_end: int | None


@dataclass
class SteeringCall:
    """Gates and positions of one forward pass over columns ``past .. past + T - 1``.

    Attributes:
        names: the gates that are not pooled per token, in order.
        past: number of columns already in the cache.
        end: [B] absolute column at which prompt gates are read.
        first_end: [B] absolute column of the first prompt end.
        mask: [B, T] bool, non-padding columns of this pass; None: no column is padding.
        given: [B, G] gates given or carried; values below 0 are decided now. None: all are decided now.
        earlier: [B, G] gates of earlier turns, which a decision can only add to.
        settled: ``given`` holds no value below 0, and ``on`` says which gates fire at all.
        behind_prompt: every column of this pass lies behind the first prompt end.
    """

    names: tuple[str, ...]
    past: int
    end: Tensor
    first_end: Tensor
    mask: Tensor | None
    given: Tensor | None = None
    earlier: Tensor | None = None
    settled: bool = False
    on: tuple[Share, ...] | None = None
    behind_prompt: bool = False
    tracing: bool = False
    fired: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    visited: set[int] = field(default_factory=set[int])

    def take_given(self) -> None:
        """Where every gate is settled, takes their values over."""
        if self.settled and self.given is not None:
            for index, name in enumerate(self.names):
                self.fired[name] = self.given[:, index] > 0

    def must_decide(self, name: str) -> bool:
        """Whether a gate is still to be read: always where it is pooled per token, else unless it is settled."""
        return name not in self.names or not self.settled

    def settle(self, name: str, fires: Tensor) -> None:
        """Takes a gate's decision, [B] or, per token, [B, T] bool; given values stand, earlier turns are kept."""
        if name in self.names:
            index = self.names.index(name)
            if self.earlier is not None:
                fires = fires | (self.earlier[:, index].to(fires.device) > 0)
            if self.given is not None:
                given = self.given[:, index].to(fires.device)
                fires = torch.where(given < 0, fires, given > 0)
        self.fired[name] = fires

    def pool(self, how: str, states: Tensor) -> Tensor:
        """States [B, T, d] -> what a gate reads: [B, d], or [B, T, d] for pool "token"."""
        if how == "token":
            return states
        batch, length, width = states.shape
        end = (self.end.to(states.device) - self.past).clamp(0, length - 1)
        if how == "prompt_end":
            return states.gather(1, end.view(batch, 1, 1).expand(batch, 1, width)).squeeze(1)
        columns = torch.arange(length, device=states.device)
        inside = columns <= end.unsqueeze(1)
        if self.mask is not None:
            inside = inside & self.mask.to(states.device)
        weight = inside.unsqueeze(-1).float()
        return (states.float() * weight).sum(1) / weight.sum(1).clamp_min(1.0)

    def where(self, gate: str | None, positions: str, states: Tensor) -> Tensor | Literal[True] | None:
        """Columns [B, T] bool an edit applies to; None: nowhere, True: everywhere."""
        if positions == "to_prompt_end" and self.behind_prompt:
            return None
        share = "all" if gate is None else self._share(gate)
        if share == "none":
            return None
        place = self._place(positions, states)
        if gate is None or share == "all":
            return True if place is None else place
        fired = self.fired[gate].to(states.device)
        fired = fired if fired.dim() == 2 else fired.unsqueeze(1)
        return fired.expand(states.shape[:2]) if place is None else fired & place

    def _share(self, gate: str) -> Share:
        if self.tracing:
            return "some"
        if self.on is not None and gate in self.names:
            return self.on[self.names.index(gate)]
        return "some" if bool(self.fired[gate].any()) else "none"

    def _place(self, positions: str, states: Tensor) -> Tensor | None:
        mask = None if self.mask is None else self.mask.to(states.device)
        if positions == "all":
            return mask
        if self.behind_prompt:
            return mask
        columns = torch.arange(states.shape[1], device=states.device) + self.past
        first_end = self.first_end.to(states.device).unsqueeze(1)
        place = columns >= first_end if positions == "from_prompt_end" else columns <= first_end
        return place if mask is None else place & mask

    def gates(self, device: torch.device) -> Tensor:
        """The prompt gates as [B, G] float32."""
        if self.settled and self.given is not None:
            return self.given
        columns = [self.fired[name].float().to(device) for name in self.names]
        return torch.stack(columns, dim=1) if columns else torch.zeros(self.end.shape[0], 0, device=device)
