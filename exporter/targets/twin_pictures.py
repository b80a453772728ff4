"""Prompts with a picture for a tiny twin, in one of the forms in which processors hand pictures to models."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steer_modules.proof import HEADER, WORDS
from steer_modules.twin import PICTURE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Inputs = dict[str, Tensor]
_MOST_TOKENS = 1200
_TILES = 10
_SIDE = 4
"""Patches on each side of a picture that is handed over as patches."""
_REFUSALS = (TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError, AssertionError)


def pictured(model: PreTrainedModel) -> tuple[Inputs, Inputs] | None:
    """Two prompts of different lengths, each with a picture that the model reads; None where no form of a picture fits it."""
    if getattr(model.config, "vision_config", None) is None:
        return None
    known = set(inspect.signature(model.forward).parameters)
    forms = [set(form) <= known for form in _forms(model.config.vision_config, 0)]
    found = (_pair(model, form) for form, fits in enumerate(forms) if fits)
    return next((pair for pair in found if pair is not None), None)


def _pair(model: object, form: int) -> tuple[Inputs, Inputs] | None:
    """Two prompts with pictures in one form; None where it is not the model's."""
    try:
        short, long = (_prompt(model, form, seed, 9 + 3 * seed) for seed in (0, 1))
        read = short is not None and long is not None and _is_read(model, short, long)
    except _REFUSALS:
        return None
    return (short, long) if read and short is not None and long is not None else None


def _forms(vision: object, seed: int) -> Iterator[Inputs]:
    """A random picture as one array, as tiles with its size, as an array with its size, in a list, and as patches."""
    draw = torch.Generator().manual_seed(seed)
    size = getattr(vision, "image_size", None) or 0
    high, wide = size if isinstance(size, list | tuple) else (size, size)
    sizes = torch.tensor([[high, wide]])
    yield {"pixel_values": torch.randn(1, 3, high, wide, generator=draw)}
    yield {"pixel_values": torch.randn(1, _TILES, 3, high, wide, generator=draw), "image_sizes": sizes}
    yield {"pixel_values": torch.randn(1, 3, high, wide, generator=draw), "image_sizes": sizes}
    yield {"pixel_values": torch.randn(1, 1, 3, high, wide, generator=draw)}
    patch, frames = getattr(vision, "patch_size", 0), getattr(vision, "temporal_patch_size", 1)
    if isinstance(patch, int) and isinstance(frames, int):
        values = 3 * frames * patch * patch
        grid = torch.tensor([[1, _SIDE, _SIDE]])
        yield {"pixel_values": torch.randn(_SIDE * _SIDE, values, generator=draw), "image_grid_thw": grid}


def _prompt(model: Any, form: int, seed: int, length: int) -> Inputs | None:
    """A prompt [1, n + T] whose picture takes n columns; None where it would take too many."""
    picture = list(_forms(model.config.vision_config, seed))[form]
    width = int(model.config.get_text_config(decoder=True).hidden_size)
    out = model.get_image_features(**picture)
    features = getattr(out, "pooler_output", out)
    parts = [features] if isinstance(features, Tensor) else list(features)
    count = sum(part.numel() for part in parts) // width
    if not 0 < count <= _MOST_TOKENS:
        return None
    ids = torch.randint(7, WORDS, (1, count + length), generator=torch.Generator().manual_seed(seed))
    ids[:, 1 : 1 + count] = PICTURE
    ids[:, -len(HEADER) :] = torch.tensor(HEADER)
    known = inspect.signature(model.forward).parameters
    marks = {
        name: (ids == PICTURE).long() for name in ("mm_token_type_ids", "token_type_ids") if name in known
    }
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **marks, **picture}


def _is_read(model: Any, short: Inputs, long: Inputs) -> bool:
    """Whether another picture gives other words."""
    pictures = {name: value for name, value in long.items() if name not in _columns(long)}
    return not torch.equal(model(**short).logits[:, -1], model(**{**short, **pictures}).logits[:, -1])


def _columns(inputs: Inputs) -> set[str]:
    shape = inputs["input_ids"].shape
    return {name for name, value in inputs.items() if value.shape == shape}
