"""Where a generation header ends, recognised in the graph: from token ids, or from the embeddings of its tokens.

The prefixes of all headers are numbered by their length, shortest first. What a sequence must remember is one number: the longest
prefix that it ends in so far, 0 for none. It tells every shorter one, and with it the tokens that a later pass needs to see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steer_modules.headers import NEAR

_NONE, _ANY = -1, -2


@dataclass(frozen=True)
class HeaderTable:
    """Headers as patterns over classes of tokens; class 0 is every token that no header has.

    Attributes:
        tokens: one token id for each class from 1 on.
        rows: [classes, d] float32, their embeddings, where tokens come as embeddings; tokens of equal rows are one class.
        patterns: every prefix of every header, shortest first.
        complete: for each of them, whether it is a whole header.
    """

    tokens: tuple[int, ...]
    rows: Tensor | None
    patterns: tuple[tuple[int, ...], ...]
    complete: tuple[bool, ...]

    @classmethod
    def of(
        cls, headers: Sequence[Sequence[int]], embed: Callable[[Tensor], Tensor] | None = None
    ) -> HeaderTable:
        """The table of some headers, each of at least one token id.

        Args:
            embed: ids [n] -> their rows [n, d] float32, where the decoder reads embeddings.
        """
        tokens: list[int] = []
        rows: list[Tensor] = []
        classes: dict[int, int] = {}
        for token in dict.fromkeys(token for header in headers for token in header):
            row = torch.empty(0) if embed is None else embed(torch.tensor([token]))[0].detach()
            alike = [i for i, other in enumerate(rows) if embed is not None and _is_near(row, other)]
            if not alike:
                tokens.append(token)
                rows.append(row)
            classes[token] = alike[0] + 1 if alike else len(tokens)
        whole = {tuple(classes[token] for token in header) for header in headers}
        prefixes = {header[:length] for header in whole for length in range(1, len(header) + 1)}
        patterns = tuple(sorted(prefixes, key=lambda one: (len(one), one)))
        table = None if embed is None else torch.stack(rows).contiguous()
        return cls(tuple(tokens), table, patterns, tuple(one in whole for one in patterns))

    @property
    def width(self) -> int:
        """Tokens that are looked at, the newest last."""
        return max(2, *map(len, self.patterns))

    def pattern_rows(self) -> Tensor:
        """[R, width]: each pattern at the right, whatever before it."""
        return torch.tensor([_right(one, self.width, _ANY) for one in self.patterns])

    def histories(self) -> Tensor:
        """[R + 1, width - 1]: the newest tokens of a sequence by what it remembers."""
        patterns = [_right(one, self.width - 1, _NONE) for one in ((), *self.patterns)]
        return torch.tensor(patterns)


class HeadersBody(nn.Module):
    """Body of SteeringHeaders: which columns end a header, and what the sequence remembers at each of them.

    Inputs: tokens [B, T] int64 or [B, T, d] float32; mask [B, T] bool, False where padding; before [B] float32, what was remembered.
    Outputs: ends [B, T] bool; remembered [B, T] float32, at padding what the column before has.
    """

    def __init__(self, table: HeaderTable) -> None:
        super().__init__()
        self.by_ids = table.rows is None
        self.classes = nn.Buffer(torch.tensor(table.tokens))
        self.patterns = nn.Buffer(table.pattern_rows())
        self.anything = nn.Buffer(self.patterns == _ANY)
        self.complete = nn.Buffer(torch.tensor(table.complete))
        self.numbers = nn.Buffer(torch.arange(1, len(table.patterns) + 1))
        self.histories = nn.Buffer(table.histories())

    def forward(
        self, tokens: Tensor, mask: Tensor, before: Tensor, tensors: Any = None
    ) -> tuple[Tensor, Tensor]:
        found = self._class_of_ids(tokens) if self.by_ids else self._class_of_rows(tokens, **tensors)
        real = mask.long()
        ranks = real.cumsum(1)
        # Real columns go to the left in their order, padding behind them: then every header's tokens are neighbours.
        place = torch.where(mask, ranks - 1, ranks[:, -1:] + (1 - real).cumsum(1) - 1)
        together = torch.zeros_like(found).scatter(1, place, found)
        last = self.histories.shape[0] - 1
        known = before.clamp(0, last).long()
        seen = torch.cat([self.histories[known], together], dim=1)
        width = self.patterns.shape[1]
        columns = torch.arange(tokens.shape[1]).unsqueeze(1) + torch.arange(width)
        windows = seen[:, columns]
        same = ((windows.unsqueeze(2) == self.patterns) | self.anything).all(-1)
        ends = (same & self.complete).any(-1)
        longest = (same * self.numbers).amax(-1)
        remembered = torch.cat([known.unsqueeze(1), longest], dim=1).gather(1, ranks)
        return ends.gather(1, place) & mask, remembered.float()

    def _class_of_ids(self, ids: Tensor) -> Tensor:
        same = ids.unsqueeze(-1) == self.classes
        return (same * torch.arange(1, self.classes.shape[0] + 1)).amax(-1)

    def _class_of_rows(self, embedded: Tensor, rows: Tensor) -> Tensor:
        squares = (rows * rows).sum(-1)
        nearest = (2 * (embedded @ rows.T) - squares).argmax(-1)
        apart = embedded - rows[nearest]
        near = (apart * apart).sum(-1) <= NEAR * NEAR * squares[nearest]
        return torch.where(near, nearest + 1, 0)


def _is_near(row: Tensor, other: Tensor) -> bool:
    return bool((row - other).norm() <= NEAR * other.norm())


def _right(pattern: Sequence[int], width: int, filling: int) -> list[int]:
    kept = list(pattern)[-width:]
    return [filling] * (width - len(kept)) + kept
