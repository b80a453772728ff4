"""The weights of a model in memory, held to those that were loaded and checked: their values, once a conversation.

Not PyTorch's version counters and not addresses: writes through ``.data`` (peft's ``merge_and_unload`` among them),
``load_state_dict(assign=True)`` and swapped modules move no counter, while ``.to(device)`` and ``.half()`` move every address.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

SAMPLE = 4096
"""Elements of each tensor that are compared, spread over its rows and columns; a smaller tensor is compared whole."""
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}
_CASTS = (torch.float32, torch.float16, torch.bfloat16)
"""What a model is cast to and perhaps back: a float32 that lost what they cannot hold is still the same weight. Not eight bits: those
are a quantised model, whose states are others."""


class Entry(NamedTuple):
    """One tensor: where its elements lie among those of its group, which none of a tensor that is not in memory (offloaded) do."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    start: int
    stop: int

    @property
    def group(self) -> tuple[torch.device, int]:
        return self.device, self.dtype.itemsize


class Sample(NamedTuple):
    """Elements of every parameter and buffer of a module, as they were at one time.

    Attributes:
        entries: in the module's order.
        bits: by device and size of an element, the elements [n] as integers of that size, in the order of the entries.
    """

    entries: tuple[Entry, ...]
    bits: dict[tuple[torch.device, int], Tensor]

    @classmethod
    def of(cls, module: nn.Module, *, without: str = "") -> Sample:
        """The elements as they are now.

        Args:
            without: the name of a part that is left out.
        """
        entries: list[Entry] = []
        parts: dict[tuple[torch.device, int], list[Tensor]] = {}
        ends: dict[tuple[torch.device, int], int] = {}
        with torch.no_grad():
            for name, tensor in _tensors(module, without):
                group = (tensor.device, tensor.dtype.itemsize)
                start = stop = ends.get(group, 0)
                if tensor.device.type != "meta" and tensor.numel() and (few := _spread(tensor)) is not None:
                    parts.setdefault(group, []).append(few)
                    stop = ends[group] = start + few.numel()
                entries.append(Entry(name, tuple(tensor.shape), tensor.dtype, tensor.device, start, stop))
            return cls(tuple(entries), {group: torch.cat(few) for group, few in parts.items()})

    def changed(self, now: Sample, *, casts: bool = True) -> str | None:
        """The name of a tensor that is another one in ``now``; None where all are the same, on other devices too.

        Args:
            casts: whether a tensor is the same one in another dtype, and with only what float16 or bfloat16 can hold of it.
        """
        if self.entries == now.entries and all(
            torch.equal(few, now.bits[group]) for group, few in self.bits.items()
        ):
            return None
        for mine, theirs in zip(self.entries, now.entries, strict=False):
            if mine.name != theirs.name or mine.shape != theirs.shape:
                return theirs.name
            same = same_values if casts else _equal
            if not same(self._values(mine), now._values(theirs)):
                return theirs.name
        longer = max(self.entries, now.entries, key=len)
        shorter = min(len(self.entries), len(now.entries))
        return longer[shorter].name if shorter < len(longer) else None

    def _values(self, entry: Entry) -> Tensor:
        """[n] on the CPU, in the tensor's dtype; empty where it was not in memory."""
        if entry.start == entry.stop:
            return torch.empty(0, dtype=entry.dtype)
        return self.bits[entry.group][entry.start : entry.stop].cpu().view(entry.dtype)


def _tensors(module: nn.Module, without: str) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer by its name, buffers that are not saved (the frequencies of RoPE) too; of a tensor that is spread over processes, this one's part."""
    for prefix, part in module.named_modules():
        if without and (prefix == without or prefix.startswith(f"{without}.")):
            continue
        for name, tensor in (*part._parameters.items(), *part._buffers.items()):
            if tensor is not None:
                yield (
                    f"{prefix}.{name}" if prefix else name,
                    getattr(tensor, "_local_tensor", tensor).detach(),
                )


def _spread(tensor: Tensor) -> Tensor | None:
    """About SAMPLE elements [n] of a tensor as integers; the step has no divisor in common with its rows, so that all columns are met.

    None for a class of tensor that has no such elements (packed weights, which load with ``allow_changed_base`` alone).
    """
    step, width = max(tensor.numel() // SAMPLE, 1), tensor.shape[-1] if tensor.dim() else 1
    while math.gcd(step, width) > 1:
        step -= 1
    try:
        bits = tensor.view(_BITS[tensor.dtype.itemsize])
        if bits.is_contiguous():
            return bits.view(-1)[::step]
        places = torch.arange(0, tensor.numel(), step, device=tensor.device)
        return bits[torch.unravel_index(places, bits.shape)]
    except (RuntimeError, NotImplementedError, TypeError):
        if type(tensor) is Tensor:
            raise
        return None


def same_values(before: Tensor, now: Tensor) -> bool:
    """Whether elements are the same numbers, or became these by one cast or two."""
    if before.shape != now.shape:
        return False
    if _equal(before, now):
        return True
    if not (before.is_floating_point() and now.is_floating_point()) or now.dtype.itemsize == 1:
        return False
    once = (before, *(before.to(dtype) for dtype in _CASTS))
    twice = (one.to(dtype) for one in once[1:] for dtype in _CASTS)
    return any(_equal(way.to(now.dtype), now) for way in (*once, *twice))


def _equal(before: Tensor, now: Tensor) -> bool:
    """Whether elements are the same bits of the same dtype, so that what is no number is equal to itself."""
    bits = _BITS[now.dtype.itemsize]
    return before.dtype == now.dtype and torch.equal(before.view(bits), now.view(bits))
