"""Positions of a decoder: what its config says of them, and what the stock class keeps of them on a module.

Qwen-VL models note on a module by how much the last prompt's pictures shorten the count of positions (``rope_deltas``). Another
conversation, or a cache whose rows were moved, would go on with the wrong one; so it travels in the cache, with the gates.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

_NOTE = "rope_deltas"
_STRETCHING = ("dynamic", "longrope")


class Reach(NamedTuple):
    """What a decoder's config says of the columns it sees.

    Attributes:
        window: columns that the narrowest layer sees; None: every layer sees all.
        stretches: columns from which on the positions of earlier ones are computed anew; None: never.
        spatial: positions have three axes.
    """

    window: int | None
    stretches: int | None
    spatial: bool


def reach_of(config: Any) -> Reach:
    """Reads it off a model's config."""
    text = config.get_text_config(decoder=True)
    window, kinds = getattr(text, "sliding_window", None), getattr(text, "layer_types", None)
    if window is not None and kinds is not None and not any("sliding" in kind for kind in kinds):
        window = None
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
        None if window is None else int(window),
        int(limit) if stretched and limit is not None else None,
        spatial,
    )


def note_owner(model: Any) -> Any:
    """The module on which the stock class notes its shift of positions; None where it notes none."""
    return next((one for one in (model, getattr(model, "model", None)) if hasattr(one, _NOTE)), None)


def restore_note(model: Any, shift: Tensor | None) -> None:
    """Puts the shift [B] of the conversation that goes on where the stock class looks for it; None: a new conversation."""
    owner = note_owner(model)
    if owner is not None:
        setattr(owner, _NOTE, None if shift is None else shift.long().unsqueeze(1))


def read_note(model: Any, batch: int) -> Tensor | None:
    """The shift [B] that the stock class noted in this pass."""
    noted = getattr(note_owner(model), _NOTE, None)
    if not isinstance(noted, Tensor) or not noted.numel():
        return None
    rows = noted.reshape(noted.shape[0], -1)[:, 0]
    return rows.repeat_interleave(max(batch // rows.shape[0], 1)).to(torch.float32)
