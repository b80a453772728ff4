"""What the steering of a sequence remembers from column to column, as features of a tensor.

In this order: 1, which says that a steered graph wrote it; each gate, 1 where it is on; where a gate is decided at headers, the part of
a header that the sequence ends in (:mod:`exporter.targets.onnx.headers`); where one reads a running mean, the number of real columns,
and for each layer with such a gate the mean itself. Nothing at all, all 0, is the state before the first column.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from exporter.errors import CompileError


@dataclass(frozen=True)
class Remembered:
    """The state of the sequences of a batch at one column, or, with a further axis T behind B, at each.

    Attributes:
        gates: [B, G] float32, 1 or 0.
        header: [B] float32.
        count: [B] float32, real columns so far.
        means: by layer, [B, d] float32.
    """

    gates: Tensor
    header: Tensor
    count: Tensor
    means: dict[int, Tensor]


@dataclass(frozen=True)
class Layout:
    """Where the parts of a state lie among its features.

    Attributes:
        gates: how many.
        headers: whether a part of a header is remembered.
        mean_layers: layers with a running mean of ``hidden`` features.
    """

    gates: int
    headers: bool
    mean_layers: tuple[int, ...]
    hidden: int

    @classmethod
    def of(cls, section: Any) -> Layout:
        """The layout of a steering section."""
        means = {gate["layer"] for gate in section["gates"] if gate["pool"] == "prompt_mean"}
        headers = any(gate["pool"] != "token" for gate in section["gates"])
        return cls(len(section["gates"]), headers, tuple(sorted(means)), int(section["hidden_size"]))

    @property
    def narrow(self) -> int:
        """Features that a float16 holds without loss."""
        return 1 + self.gates + self.headers

    @property
    def wide(self) -> int:
        """Features that need a float32: the count and the means."""
        return (1 + len(self.mean_layers) * self.hidden) if self.mean_layers else 0

    @property
    def features(self) -> int:
        return self.narrow + self.wide

    def read(self, features: Tensor, behind: int) -> Remembered:
        """The state [B, F] that ``behind`` columns left.

        Columns without a state are none that a steered graph computed: what was asked there is not known, so every gate is on.
        """
        foreign = (features[:, :1] != 1) & (torch.full((1, 1), behind, device=features.device) > 0)
        on = (features[:, 1 : 1 + self.gates] > 0) | foreign
        none = torch.zeros_like(features[:, 0])
        header = features[:, 1 + self.gates] if self.headers else none
        count = features[:, self.narrow] if self.wide else none
        at = self.narrow + 1
        means = {
            layer: features[:, at + i * self.hidden : at + (i + 1) * self.hidden]
            for i, layer in enumerate(self.mean_layers)
        }
        return Remembered(on.float(), header, count, means)

    def written(self, state: Remembered) -> Tensor:
        """Features [B, T, F] of a state at each column."""
        parts = [torch.ones_like(state.gates[..., :1]), state.gates]
        if self.headers:
            parts.append(state.header.unsqueeze(-1))
        if self.wide:
            parts.append(state.count.unsqueeze(-1))
            parts += [state.means[layer] for layer in self.mean_layers]
        return torch.cat(parts, dim=-1)


@dataclass(frozen=True)
class Bearer:
    """A layer of keys and values [B, H, P, D] that bears the features of every column; ``half``: its numbers are float16.

    They fill the key's heads one after the other, then the value's. In float16 a feature that needs more stands as a sum of two.

    Raises:
        CompileError: it is too small.
    """

    layout: Layout
    heads: int
    head_dim: int
    half: bool

    def __post_init__(self) -> None:
        room = 2 * self.heads * self.head_dim
        if self.features > room:
            raise CompileError(
                f"the state of the gates has {self.features} features, but a layer of keys and values has room for {room} a column; "
                "export with --gate-state io"
            )

    @property
    def features(self) -> int:
        return self.layout.narrow + self.layout.wide * (2 if self.half else 1)

    def last(self, layer: dict[str, Tensor]) -> Tensor:
        """Features [B, F] float32 at the last column of the past; 0 where there is none."""
        used = math.ceil(self.features / self.head_dim)
        keys = layer["key"][:, : min(used, self.heads)]
        both = (
            keys if used <= self.heads else torch.cat([keys, layer["value"][:, : used - self.heads]], dim=1)
        )
        blank = both.new_zeros(both.shape[0], both.shape[1], 1, both.shape[3])
        found = torch.cat([blank, both], dim=2)[:, :, -1].flatten(1)[:, : self.features].float()
        narrow, wide = self.layout.narrow, self.layout.wide
        if not (self.half and wide):
            return found
        return torch.cat(
            [found[:, :narrow], found[:, narrow : narrow + wide] + found[:, narrow + wide :]], dim=1
        )

    def grown(self, layer: dict[str, Tensor], features: Tensor) -> dict[str, Tensor]:
        """The layer with the features [B, T, F] of new columns behind it."""
        dtype, narrow = layer["key"].dtype, self.layout.narrow
        if self.half and self.layout.wide:
            wide = features[..., narrow:]
            largest = torch.finfo(dtype).max
            high = wide.clamp(-largest, largest).to(dtype).float()
            features = torch.cat([features[..., :narrow], high, wide - high], dim=-1)
        room = 2 * self.heads * self.head_dim
        filled = nn.functional.pad(features, (0, room - self.features)).to(dtype)
        shaped = filled.unflatten(-1, (2 * self.heads, self.head_dim)).transpose(1, 2)
        new = {"key": shaped[:, : self.heads], "value": shaped[:, self.heads :]}
        return {name: torch.cat([layer[name], new[name]], dim=2) for name in new}
