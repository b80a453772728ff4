"""SteeringCall: what one forward pass knows of its columns and gates. Made per call, never kept on a module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from .columns import Columns
from .state import Carried, Features


@dataclass
class SteeringCall:
    """Gates along the columns of one forward pass.

    Attributes:
        names: all gates, in the order of the section.
        columns: how the columns follow each other.
        carried: what the cache holds.
        bits: [B, T, K] bool, header bits behind each column.
        decisive: [B, T] bool, real columns at which a generation header ends; None: none in this pass.
        given: [B, G] gates forced on (1), held off (0) or to be decided (-1); None: all are decided.
        on: gate -> [B, T] bool, from its first firing column on; filled in block by block.
        sums: gate -> [B, T, d], running sums of what a gate pooled over the sequence reads.
        visited: blocks that were steered.
        section: of the steering that made the call; None where a test made it.
        shift: [B, T] what the model adds to its count of columns behind each column; None: nothing.
    """

    names: tuple[str, ...]
    columns: Columns
    carried: Carried
    bits: Tensor
    decisive: Tensor | None
    given: Tensor | None = None
    on: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    share: dict[str, Literal["none", "some", "all"]] = field(default_factory=dict)
    sums: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    visited: set[int] = field(default_factory=set[int])
    shift: Tensor | None = None
    section: object = None
    _starts: list[list[float]] | None = None

    def settle(self, name: str, fired: Tensor | None) -> None:
        """Takes a gate's decisions at the columns of this pass: [B, T] bool, or None where it decided nowhere."""
        index = self.names.index(name)
        on = self.carried.gates[:, index] > 0
        if fired is None and self.given is None and self.columns.linear:
            self.share[name] = self._carried_share(index)
            self.on[name] = on.unsqueeze(1).expand(self.columns.batch, self.columns.length)
            return
        if fired is None:
            fired = torch.zeros(self.columns.batch, self.columns.length, dtype=torch.bool, device=on.device)
        latched = self.columns.latched(fired, on.to(fired.device))
        if self.given is not None:
            given = self.given[:, index].to(latched.device).unsqueeze(1)
            latched = torch.where(given < 0, latched, given > 0)
        self.on[name] = latched
        self.share[name] = "some" if bool(latched.any()) else "none"

    def may_fire(self, name: str) -> bool:
        """Whether a gate is still to be read: not where it is on already in every row."""
        return not (self.columns.linear and self._carried_share(self.names.index(name)) == "all")

    def _carried_share(self, index: int) -> Literal["none", "some", "all"]:
        if self._starts is None:
            held = self.carried.gates > 0
            self._starts = [held.any(0).tolist(), held.all(0).tolist()]
        return "all" if self._starts[1][index] else "some" if self._starts[0][index] else "none"

    def where(self, gates: Sequence[str]) -> Tensor | Literal[True] | None:
        """Columns [B, T] bool that an edit with these gates (none: always) applies to; None: nowhere, True: everywhere.

        Padding behind a column where a gate is on is steered like it: whoever reads its logits, as ``generate`` does of prompts that are
        padded on the right, must not be answered by the base. No other column sees padding, so nothing else changes.
        """
        if not gates:
            return True
        asked = [name for name in gates if self.share[name] != "none"]
        if not asked:
            return None
        if any(self.share[name] == "all" for name in asked):
            return True
        on = self.on[asked[0]]
        for name in asked[1:]:
            on = on | self.on[name].to(on.device)
        return on

    def gates(self, device: torch.device) -> Tensor:
        """The gates at every column, [B, T, G] float32."""
        if not self.names:
            return torch.zeros(self.columns.batch, self.columns.length, 0, device=device)
        return torch.stack([self.on[name].to(device) for name in self.names], dim=-1).float()

    def features(self, layout: Features, gates: Tensor) -> Tensor:
        """What the cache is to remember of each column, float32 [B, T, F]."""
        columns, device = self.columns, gates.device
        real = columns.real
        if real is None:
            real = torch.ones(columns.batch, columns.length, device=device)
        real = real.to(device).float()
        ones = torch.ones(columns.batch, columns.length, 1, device=device)
        count = columns.totals(ones, self.carried.count.to(device).unsqueeze(1)).squeeze(-1)
        sums = [self.sums[name].to(device) for name in self.names if name in self.sums]
        joined = torch.cat(sums, dim=-1) if sums else count.new_zeros((*count.shape, 0))
        shift = torch.zeros_like(count) if self.shift is None else self.shift.to(device)
        return layout.pack(real, count, shift, gates, self.bits.to(device), joined)
