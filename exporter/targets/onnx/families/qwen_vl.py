"""qwen2_5_vl and qwen3_vl: images of any size in one sequence of patches, and positions on three axes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from exporter.targets.onnx.families.base import Family, VisionGraph
from exporter.targets.onnx.families.patch_grid import PatchGrid

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _PatchVision(VisionGraph):
    """Inputs ``pixel_values`` [N, dim] float32, the patches of all images, and ``image_grid_thw`` [n, 3] int64."""

    def __init__(self, model: object) -> None:
        super().__init__(model)
        self.visual = self.inner.visual
        self.merge = int(self.visual.spatial_merge_size)

    def example(self) -> dict[str, Tensor]:
        # Two images of different sizes, so that nothing in the trace can rest on equal ones.
        grid = torch.tensor([[1, 2, 3], [1, 4, 2]]) * torch.tensor([1, self.merge, self.merge])
        config = self.visual.config
        dim = config.in_channels * config.temporal_patch_size * config.patch_size**2
        count = int(grid.prod(-1).sum())
        return {"pixel_values": torch.randn(count, dim), "image_grid_thw": grid}

    def axes(self) -> dict[str, dict[int, str]]:
        return {"pixel_values": {0: "num_patches"}, "image_grid_thw": {0: "num_images"}}

    def _numbers(self, pixel_values: Tensor) -> Tensor:
        """0 to N - 1. Its length is written as a multiple of a block, which tells the tracer that blocks divide it."""
        unit = self.merge**2
        return torch.arange(pixel_values.shape[0] // unit * unit, device=pixel_values.device)


class Qwen25Vision(_PatchVision):
    """The encoder of qwen2_5_vl, most of whose blocks attend within windows: -> ``image_features`` [N / merge^2, d]."""

    def forward(self, pixel_values: Tensor, image_grid_thw: Tensor) -> dict[str, Tensor]:
        visual, numbers = self.visual, self._numbers(pixel_values)
        grid = PatchGrid.of(image_grid_thw, numbers, self.merge)
        order, window = grid.windows(visual.window_size // self.merge // visual.patch_size)
        with _attention_under_masks(visual):
            out = visual(
                pixel_values[numbers].to(self.dtype),
                grid_thw=image_grid_thw,
                position_ids=grid.position_ids,
                window_index=order,
                cu_seqlens=_same(grid.frame),
                cu_window_seqlens=_same(window),
                return_dict=True,
            )
        return {"image_features": out.pooler_output.float()}


class Qwen3Vision(_PatchVision):
    """The encoder of qwen3_vl: -> ``image_features`` [N / merge^2, d] and ``deepstack_features.i`` of the same shape."""

    def forward(self, pixel_values: Tensor, image_grid_thw: Tensor) -> dict[str, Tensor]:
        visual, numbers = self.visual, self._numbers(pixel_values)
        grid = PatchGrid.of(image_grid_thw, numbers, self.merge)
        entries, weights = grid.table_taps(visual.num_grid_per_side)
        with _attention_under_masks(visual):
            out = visual(
                pixel_values[numbers].to(self.dtype),
                grid_thw=image_grid_thw,
                position_ids=grid.position_ids,
                interp_indices=entries,
                interp_weights=weights,
                cu_seqlens=_same(grid.frame),
                return_dict=True,
            )
        layers = {f"deepstack_features.{i}": one.float() for i, one in enumerate(out.deepstack_features)}
        return {"image_features": out.pooler_output.float(), **layers}


def _same(segment: Tensor) -> Tensor:
    """Segments [N] -> mask [1, N, N] bool, True where two patches are of one segment."""
    return (segment.unsqueeze(1) == segment.unsqueeze(0)).unsqueeze(0)


@contextmanager
def _attention_under_masks(visual: Any) -> Iterator[None]:
    """Lets the blocks attend under a mask that comes as their ``cu_seqlens``.

    Stock code attends to one segment after the other, and Transformers' exporter demands segments of one length, which
    windows at a border and images of different sizes are not.
    """
    attentions = [block.attn for block in visual.blocks]
    for attention in attentions:
        attention.forward = partial(_attend, attention)
    try:
        yield
    finally:
        for attention in attentions:
            del attention.forward


def _attend(
    attention: Any, hidden_states: Tensor, cu_seqlens: Tensor, position_embeddings: Any, **_unused: Any
) -> Tensor:
    """One attention of a vision block over patches [N, d], under the mask ``cu_seqlens`` [1, N, N] bool."""
    length = hidden_states.shape[0]
    packed = attention.qkv(hidden_states).reshape(length, 3, attention.num_heads, -1)
    query, key, value = packed.permute(1, 0, 2, 3).unbind(0)
    rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb_vision  # each family has its own
    query, key = rotate(query, key, *position_embeddings)
    query, key, value = (states.transpose(0, 1).unsqueeze(0) for states in (query, key, value))
    mixed = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=cu_seqlens.unsqueeze(0), scale=attention.scaling
    )
    projected: Tensor = attention.proj(mixed.squeeze(0).transpose(0, 1).reshape(length, -1))
    return projected


class Qwen25Vl(Family):
    """qwen2_5_vl: ``position_ids`` [3, B, T] count frames, rows and columns."""

    sees = True
    position_rows = 3

    def vision(self, model: object) -> VisionGraph:
        return Qwen25Vision(model)


class Qwen3Vl(Family):
    """qwen3_vl: the same, and features of earlier blocks of the encoder are added behind the first decoder blocks.

    They come as ``deepstack_features.i`` [B, T, d] float32, 0 where no image token stands, so that the addition needs no
    mask. It comes behind the steering of a block, as in the checkpoint.
    """

    sees = True
    position_rows = 3

    def decode(self, model: PreTrainedModel, cache: object, **inputs: object) -> Tensor:
        text = model.model.language_model
        # Stock code adds at the places of a mask, which a graph does not have; the stock forward of the whole model
        # takes features from its own encoder only.
        text._deepstack_process = _add
        try:
            out = text(
                past_key_values=cache,
                use_cache=True,
                return_dict=True,
                deepstack_visual_embeds=inputs.pop("deepstack_features"),
                **inputs,
            )
        finally:
            del text._deepstack_process
        logits: Tensor = model.lm_head(out.last_hidden_state)
        return logits

    def example_extras(self, model: Any, batch: int, length: int) -> dict[str, object]:
        width = int(model.config.text_config.hidden_size)
        return {"deepstack_features": [torch.randn(batch, length, width) for _ in range(_deepstack(model))]}

    def extra_axes(self, model: object) -> dict[str, object]:
        tokens = {0: "batch_size", 1: "sequence_length"}
        return {"deepstack_features": [tokens] * _deepstack(model)}

    def vision(self, model: object) -> VisionGraph:
        return Qwen3Vision(model)


def _deepstack(model: Any) -> int:
    """How many layers of features are added."""
    return len(model.config.vision_config.deepstack_visual_indexes)


def _add(hidden_states: Tensor, _places: None, features: Tensor) -> Tensor:
    return hidden_states + features.to(hidden_states.dtype)
