"""Generation headers of a chat template, recognised token by token, however a sequence is cut.

What is known behind a column is one bit per token of every header: "the sequence ends in this header's tokens up to here".
The bits of a column follow from those of the column before and from its own token alone, so they travel with the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .columns import Columns

_NEAR = 1e-3
"""An embedding is that of a token where it differs from the token's row by at most this share of its length."""


class Headers:
    """The generation headers of a program: K tokens in all, one header behind the other."""

    def __init__(self, headers: Sequence[Sequence[int]]) -> None:
        self.tokens = [token for header in headers for token in header]
        self.firsts: list[bool] = []
        self.lasts: list[bool] = []
        for header in headers:
            self.firsts += [index == 0 for index in range(len(header))]
            self.lasts += [index == len(header) - 1 for index in range(len(header))]
        self.longest = max((len(header) for header in headers), default=0)
        self._on: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def known(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens int64 [K], whether each is its header's first, and its last, bool [K]."""
        if device not in self._on:
            self._on[device] = (
                torch.tensor(self.tokens, dtype=torch.long, device=device),
                torch.tensor(self.firsts, dtype=torch.bool, device=device),
                torch.tensor(self.lasts, dtype=torch.bool, device=device),
            )
        return self._on[device]

    def in_ids(self, ids: Tensor) -> Tensor:
        """Which tokens of the headers stand at each column: ids [B, T] -> bool [B, T, K]."""
        tokens, _, _ = self.known(ids.device)
        return ids.unsqueeze(-1) == tokens

    def in_embeddings(self, embeds: Tensor, table: Any) -> Tensor:
        """The same for columns given as embeddings [B, T, d]; ``table`` is the model's embedding module."""
        tokens, _, _ = self.known(embeds.device)
        with torch.no_grad():
            rows = table(tokens.to(table.weight.device)).to(embeds.device).float()
            found = [
                torch.linalg.vector_norm(embeds.float() - row, dim=-1)
                <= _NEAR * torch.linalg.vector_norm(row)
                for row in rows
            ]
        return torch.stack(found, dim=-1) if found else embeds.new_zeros((*embeds.shape[:2], 0)).bool()

    def follow(self, found: Tensor, columns: Columns, carried: Tensor) -> Tensor:
        """The bits behind each column.

        Args:
            found: bool [B, T, K], the header tokens that stand there.
            carried: bool [B, K], the bits behind the last column of the cache.

        Returns:
            bool [B, T, K]; a padding column has the bits of the column before it.
        """
        _, firsts, _ = self.known(found.device)
        bits = found & firsts
        for _ in range(max(min(self.longest - 1, columns.length), 1)):
            bits = found & (firsts | _next(columns.preceding(bits, carried)))
        if columns.real is None:
            return bits
        real = columns.real.to(bits.device).unsqueeze(-1)
        return torch.where(real, bits, columns.preceding(bits & real, carried))

    def complete(self, bits: Tensor) -> Tensor:
        """Columns at which a header ends: bits bool [B, T, K] -> bool [B, T]."""
        _, _, lasts = self.known(bits.device)
        return (bits & lasts).any(-1)


def _next(bits: Tensor) -> Tensor:
    """Each bit moved to the next token of the headers."""
    return torch.cat([torch.zeros_like(bits[..., :1]), bits[..., :-1]], dim=-1)
