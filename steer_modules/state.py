"""What steering carries from pass to pass: one more layer of the cache, with features for every column.

It lies in the cache, not beside it, so that whatever is done to the rows and columns of a cache (reorder, select, repeat,
crop, reset, copy) is done to the gates as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

_HEAD = 4
"""Features before the gates: mark, real, count, shift."""


@dataclass(frozen=True)
class Features:
    """Where the parts of a column's features lie.

    Attributes:
        gates: G, gates that may have fired.
        headers: K, bits of generation headers.
        means: width of the running sums, one after the other.
        mark: first feature of every column, a number that follows from the program: gates of another are not taken for its own.
    """

    gates: int
    headers: int
    means: int
    mark: float

    @property
    def width(self) -> int:
        return _HEAD + self.gates + self.headers + self.means

    def pack(
        self, real: Tensor, count: Tensor, shift: Tensor, gates: Tensor, bits: Tensor, sums: Tensor
    ) -> Tensor:
        """[B, T] three times, [B, T, G], [B, T, K] and [B, T, M] -> features float32 [B, T, F]."""
        parts = [torch.full_like(count, self.mark), real.to(count.dtype), count, shift.to(count.dtype)]
        head = torch.stack(parts, dim=-1)
        return torch.cat([head, gates.to(count.dtype), bits.to(count.dtype), sums.to(count.dtype)], dim=-1)


@dataclass(frozen=True)
class Carried:
    """The state after the last column of a cache, and which of its columns are real.

    Attributes:
        count: [B] real columns of the sequence so far.
        shift: [B] what a model with positions in space adds to its count of columns (its ``rope_deltas``); else 0.
        gates: [B, G] float32, 1 or 0.
        bits: [B, K] bool.
        sums: [B, M] float32.
        real: [B, P] bool.
    """

    count: Tensor
    shift: Tensor
    gates: Tensor
    bits: Tensor
    sums: Tensor
    real: Tensor

    @classmethod
    def blank(cls, features: Features, batch: int, device: torch.device) -> Carried:
        zeros = torch.zeros(batch, features.width, device=device)
        return cls._of(features, zeros, torch.zeros(batch, 0, dtype=torch.bool, device=device))

    @classmethod
    def read(cls, features: Features, keys: Tensor) -> Carried:
        """From a layer's keys [B, 1, P, F], P at least 1."""
        columns = keys[:, 0]
        return cls._of(features, columns[:, -1], columns[:, :, 1] > 0)

    @classmethod
    def _of(cls, features: Features, last: Tensor, real: Tensor) -> Carried:
        sizes = (_HEAD, features.gates, features.headers, features.means)
        head, gates, bits, sums = last.split(sizes, dim=1)
        return cls(head[:, 2], head[:, 3], gates, bits > 0, sums, real)


class GateLayer(DynamicLayer):
    """A layer of a cache that holds features: keys [B, 1, P, F] float32, values [B, 1, P, 0]."""

    def __init__(self, others: Sequence[Any] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # What Transformers asks of all layers together is answered as the others do.
        self.is_compileable = bool(others) and all(layer.is_compileable for layer in others)
        self.is_sliding = bool(others) and all(getattr(layer, "is_sliding", False) for layer in others)

    def add(self, features: Tensor) -> None:
        """Takes the features [B, T, F] of new columns."""
        keys = features.unsqueeze(1)
        self.update(keys, keys[..., :0])

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG002
        """Appends columns; what is carried is small, so it stays where it is computed."""
        keys, values = self.keys, self.values
        if keys is None or values is None or not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
        else:
            self.keys = torch.cat([keys.to(key_states.device), key_states], dim=-2)
            self.values = torch.cat([values.to(key_states.device), value_states], dim=-2)
        return self.keys, self.values


def find_cache(values: dict[str, Any]) -> Cache | None:
    """The one cache among arguments or fields, whatever its name.

    Raises:
        TypeError: something under a cache's name is not a Transformers cache of layers, or there are several caches.
    """
    found = {id(value): value for value in values.values() if isinstance(value, Cache)}
    strange = [
        f"{name} of type {type(value).__name__}"
        for name, value in values.items()
        if value is not None and not isinstance(value, Cache) and _looks_like_cache(name, value)
    ]
    layered = all(hasattr(cache, "layers") for cache in found.values())
    if strange or len(found) > 1 or not layered:
        what = ", ".join(strange) or ", ".join(type(cache).__name__ for cache in found.values())
        raise TypeError(
            f"a steered model stores its gates in a Transformers cache of layers, but received {what}; give a DynamicCache or "
            "StaticCache, or none"
        )
    return next(iter(found.values()), None)


def _looks_like_cache(name: str, value: Any) -> bool:
    named = name in ("past_key_values", "past_key_value", "cache", "cache_params", "past", "layer_past")
    return named or (hasattr(value, "get_seq_length") and hasattr(value, "update"))


def gate_layer(cache: Cache | None) -> GateLayer | None:
    """The layer of a cache that holds features; a plain layer that a copy of the cache made of it counts too."""
    if cache is None or not cache.layers:
        return None
    last: Any = cache.layers[-1]
    if isinstance(last, GateLayer):
        return last
    keys, values = getattr(last, "keys", None), getattr(last, "values", None)
    if not isinstance(keys, Tensor) or not isinstance(values, Tensor):
        return None
    if keys.dim() != 4 or keys.shape[1] != 1 or not keys.numel() or values.shape[-1:] != (0,):
        return None
    layer = GateLayer(cache.layers[:-1])
    layer.update(keys, values)
    cache.layers[-1] = layer
    return layer


def recorded(cache: Cache, features: Features) -> Tensor | None:
    """Keys [B, 1, P, F] of a cache's gate layer; None for an empty cache.

    Raises:
        ValueError: columns of the cache were not computed by this steered model.
    """
    layer = gate_layer(cache)
    length = int(cache.get_seq_length())
    held = 0 if layer is None else int(layer.get_seq_length())
    if length != held:
        raise ValueError(
            f"the cache contains {length} columns, but gates for {held} of them: another model filled part of it, so its gates are "
            "unknown. Start from an empty cache"
        )
    if not held:
        return None
    assert layer is not None
    assert isinstance(layer.keys, Tensor)
    other = layer.keys.shape[-1] != features.width or bool((layer.keys[..., 0] != features.mark).any())
    if other:
        raise ValueError("the cache was filled by a model with another steering; start from an empty cache")
    return layer.keys


def record(cache: Cache, features: Tensor) -> None:
    """Adds the features [B, T, F] of a pass's columns to the cache."""
    layer = gate_layer(cache)
    if layer is None:
        layer = GateLayer(cache.layers)
        cache.layers.append(layer)
    layer.add(features)


def gates_on(cache: Any, gates: int) -> Tensor | None:
    """The gates [B, G] after the last column of a cache; None if it has none."""
    layer = gate_layer(cache) if isinstance(cache, Cache) and hasattr(cache, "layers") else None
    if layer is None or not isinstance(layer.keys, Tensor) or not layer.keys.numel():
        return None
    return layer.keys[:, 0, -1, _HEAD : _HEAD + gates]
