"""Means of block outputs over named columns, taken by forward hooks while the model runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from exporter.types import Encoded


@dataclass(frozen=True)
class PooledSequence:
    """A sequence and the pools wanted of it, each a set of its columns."""

    sequence: Encoded
    pools: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        for pool in self.pools:
            if not pool or min(pool) < 0 or max(pool) >= len(self.sequence):
                raise ValueError(
                    f"pool {pool} is empty or outside the {len(self.sequence)} columns of its sequence"
                )


@dataclass(frozen=True)
class PoolIndex:
    """Where the pools of one batch lie.

    Attributes:
        rows, columns: int64 [N], the cells of [B,T] that any pool covers, pool by pool.
        lengths: int64 [P], cells per pool.
        next_ids: int64 [P], the token after a single-column pool; -1 for wider pools and at the end of a sequence.
    """

    rows: Tensor
    columns: Tensor
    lengths: Tensor
    next_ids: Tensor

    @classmethod
    def of(cls, items: Sequence[PooledSequence], width: int, side: str) -> PoolIndex:
        rows: list[int] = []
        columns: list[int] = []
        lengths: list[int] = []
        next_ids: list[int] = []
        for row, item in enumerate(items):
            offset = width - len(item.sequence) if side == "left" else 0
            ids = item.sequence.prompt.ids + item.sequence.response
            for pool in item.pools:
                rows += [row] * len(pool)
                columns += [offset + column for column in pool]
                lengths.append(len(pool))
                known = len(pool) == 1 and pool[0] + 1 < len(ids)
                next_ids.append(ids[pool[0] + 1] if known else -1)
        return cls(*(torch.tensor(values, dtype=torch.long) for values in (rows, columns, lengths, next_ids)))

    def means(self, states: Tensor) -> Tensor:
        """Mean state of each pool: [B,T,d] -> float32 [P,d], in a fixed order of summation."""
        picked = states[self.rows.to(states.device), self.columns.to(states.device)].float()
        if picked.shape[0] == self.lengths.shape[0]:
            return picked
        return torch.segment_reduce(picked, "mean", lengths=self.lengths.to(states.device), axis=0)


@contextmanager
def block_means(
    blocks: nn.ModuleList,
    layers: Sequence[int],
    index: PoolIndex,
    earlier: Mapping[int, Tensor] | None = None,
) -> Iterator[dict[int, Tensor]]:
    """While open, every forward pass fills the yielded dict: layer -> float32 [P,d] on the CPU. Hooks always go away.

    Args:
        earlier: by layer, states [p,d] of columns that stand before those of the pass in every row.
    """
    found: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            states = output if isinstance(output, Tensor) else output[0]
            if earlier is not None:
                before = earlier[layer].to(states)
                states = torch.cat([before.expand(len(states), -1, -1), states], dim=1)
            found[layer] = index.means(states).cpu()

        return hook

    handles: list[RemovableHandle] = []
    try:
        for layer in layers:
            handles.append(blocks[layer].register_forward_hook(keep(layer)))  # noqa: PERF401 - each must be known for removal
        yield found
    finally:
        for handle in handles:
            handle.remove()
