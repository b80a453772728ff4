"""What many sequences begin with alike, a system prompt most often, run through the model once and kept as its cache.

A state depends on the columns before it alone, so what stands behind a beginning gets the same states from the cache as from the
whole (to the rounding of a sum). Sequences with images are run whole: where theirs stand is the model's business.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from exporter.fitting.pooling import PooledSequence, PoolIndex, block_means
from exporter.host import ModelHost
from exporter.types import Encoded, Prompt
from steer_modules.proof import cache_argument

LEAST = 8
"""Columns from which on a beginning is worth a pass of its own."""
FEWEST = 4
"""Sequences that must share it."""


@dataclass(frozen=True)
class Batch:
    """Sequences to run at once, by key; ``beginning``: what all of them begin with, if anything."""

    items: Mapping[str, PooledSequence]
    beginning: Beginning | None = None


class Beginning:
    """Token ids with which sequences begin; run at most once."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = tuple(ids)
        self._ran: _Before | None = None
        self._asked = False

    def run(self, host: ModelHost, layers: Sequence[int]) -> _Before | None:
        """The cache and states of the beginning; None for a model whose cache cannot be copied."""
        if not self._asked:
            self._asked = True
            self._ran = _before(host, self.ids, layers)
        return self._ran


@dataclass(frozen=True)
class _Before:
    """A beginning that was run.

    Attributes:
        cache: Transformers' cache of one row; its argument's name in ``argument``.
        spatial: whether the model works out positions in space, and would count on from the images of a batch before.
        states: by layer, block outputs [p,d].
        last: the decoder's output [p,d].
    """

    cache: DynamicCache
    argument: str
    spatial: bool
    states: dict[int, Tensor]
    last: Tensor

    def shortened(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Inputs [B,T] without the beginning's columns, with its cache in their place."""
        rows, start = len(inputs["input_ids"]), len(self.last)
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(rows)
        found = {
            "input_ids": inputs["input_ids"][:, start:],
            "attention_mask": inputs["attention_mask"],
            "use_cache": True,
            self.argument: cache,
        }
        if self.spatial:
            width = inputs["input_ids"].shape[1]
            found["position_ids"] = torch.arange(start, width, device=inputs["input_ids"].device).expand(
                rows, -1
            )
        return found

    def with_last(self, last: Tensor) -> Tensor:
        """The decoder's output [B,T,d] of whole sequences, from that behind the beginning."""
        return torch.cat([self.last.expand(len(last), -1, -1), last], dim=1)


def batches(missing: Mapping[str, PooledSequence], size: int, *, shared: bool) -> Iterator[Batch]:
    """Sequences in batches of like length; those that begin alike together, where ``shared``."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for key, item in missing.items():
        ids = item.sequence.prompt.ids
        alike = shared and not item.sequence.prompt.images and len(ids) > LEAST
        groups.setdefault(ids[:LEAST] if alike else (), []).append(key)
    alone = groups.pop((), [])
    for keys in groups.values():
        beginning = _beginning([missing[key] for key in keys]) if len(keys) >= FEWEST else None
        if beginning is None:
            alone += keys
        else:
            yield from _cut(keys, missing, size, beginning)
    yield from _cut(alone, missing, size, None)


def _cut(
    keys: Sequence[str], missing: Mapping[str, PooledSequence], size: int, beginning: Beginning | None
) -> Iterator[Batch]:
    order = sorted(keys, key=lambda key: (len(missing[key].sequence), key))
    for first in range(0, len(order), size):
        yield Batch({key: missing[key] for key in order[first : first + size]}, beginning)


def _beginning(items: Sequence[PooledSequence]) -> Beginning | None:
    """The longest beginning that all prompts share, and that leaves each of them a column."""
    ids = common_beginning([item.sequence.prompt.ids for item in items])
    return Beginning(ids) if len(ids) >= LEAST else None


def common_beginning(sequences: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The longest beginning of all sequences that leaves each of them one id or more."""
    first, last = min(sequences), max(sequences)
    most = min(len(one) for one in sequences) - 1
    length = next((i for i in range(most) if first[i] != last[i]), max(most, 0))
    return first[:length]


def _before(host: ModelHost, ids: Sequence[int], layers: Sequence[int]) -> _Before | None:
    whole = PooledSequence(Encoded(Prompt("", tuple(ids))), tuple((column,) for column in range(len(ids))))
    index = PoolIndex.of([whole], len(ids), "right")
    inputs = {"input_ids": torch.tensor([ids], device=host.device)}
    with torch.no_grad(), block_means(host.blocks, layers, index) as found:
        out = host.model.base_model(**inputs, use_cache=True)
    cache = next((value for value in dict(out).values() if isinstance(value, DynamicCache)), None)
    if cache is None or not hasattr(cache, "batch_repeat_interleave") or cache.get_seq_length() != len(ids):
        return None
    base = host.model.base_model
    return _Before(
        cache, cache_argument(type(base)), hasattr(base, "get_rope_index"), found, out.last_hidden_state[0]
    )
