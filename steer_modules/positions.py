"""Positions of a decoder: their settings in the config, and the state that the stock class stores on a module.

Qwen-VL models note on a module by how much the last prompt's pictures shorten the count of positions (``rope_deltas``). Another
conversation, or a cache whose rows were moved, would continue with the wrong one; so it is stored in the cache, with the gates.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PretrainedConfig

NOTE = "rope_deltas"
NOTHING, UNKNOWN = 1e6, 2e6
"""Shifts that are none: the stock class noted nothing; or a column amid a pass with pictures, whose shift nobody computed."""
_STRETCHING = ("dynamic", "longrope")


class Reach(NamedTuple):
    """Settings of a decoder's config about the columns it attends to.

    Attributes:
        window: columns that the narrowest layer sees; None: every layer sees all.
        stretches: number of columns after which the positions of earlier ones are recomputed; None: never.
        spatial: positions have three axes.
    """

    window: int | None
    stretches: int | None
    spatial: bool


def reach_of(config: PretrainedConfig) -> Reach:
    """Reads it off a model's config."""
    text = config.get_text_config(decoder=True)
    kinds = getattr(text, "layer_types", None)
    seen = [
        getattr(text, name, None)
        for name, kind in (("sliding_window", "sliding"), ("attention_chunk_size", "chunk"))
        if kinds is None or any(kind in one for one in kinds)
    ]
    window = min((int(one) for one in seen if one is not None), default=None)
    rope = getattr(text, "rope_parameters", None) or {}
    parts = [part for part in (rope, *rope.values()) if isinstance(part, dict)]
    stretched = any(part.get("rope_type") in _STRETCHING for part in parts)
    limit = next(
        (part[name] for part in parts for name in ("original_max_position_embeddings",) if part.get(name)),
        getattr(text, "original_max_position_embeddings", None)
        or getattr(text, "max_position_embeddings", None),
    )
    spatial = any("mrope_section" in part for part in parts)
    return Reach(
        window,
        int(limit) if stretched and limit is not None else None,
        spatial,
    )


def note_owner(model: Any) -> Any:
    """The module on which the stock class notes its shift of positions; None where it notes none."""
    return next((one for one in (model, getattr(model, "model", None)) if hasattr(one, NOTE)), None)


def restore_note(model: Any, shift: Tensor | None) -> None:
    """Stores the shift [B] of the continued conversation where the stock class reads it; None: a new conversation.

    Raises:
        ValueError: the cache was cut back into a prompt with pictures, where the shift is not known.
    """
    owner = note_owner(model)
    if owner is None:
        return
    if shift is not None and bool((shift == UNKNOWN).any()):
        raise ValueError(
            "the cache was cropped within a prompt with images, where this model's positions are unknown; start from an empty cache"
        )
    noted = shift is not None and not bool((shift == NOTHING).any())
    setattr(owner, NOTE, shift.long().unsqueeze(1) if noted and shift is not None else None)


def read_note(model: Any, before: Tensor, length: int) -> Tensor | None:
    """The shift behind each of the ``length`` columns of a pass, [B, T], by what the stock class noted; None: it notes none.

    Args:
        before: [B] shift before the pass.
    """
    owner = note_owner(model)
    if owner is None:
        return None
    noted = getattr(owner, NOTE, None)
    if isinstance(noted, Tensor) and noted.numel():
        rows = noted.reshape(noted.shape[0], -1)[:, 0].to(before.device, torch.float32)
        behind = rows.repeat_interleave(max(before.shape[0] // rows.shape[0], 1))
    else:
        behind = torch.full_like(before, NOTHING)
    known = (behind == before) | (behind == NOTHING) | (behind == 0)
    amid = torch.where(known, behind, UNKNOWN).unsqueeze(1).expand(-1, length - 1)
    return torch.cat([amid, behind.unsqueeze(1)], dim=1)
