"""Families whose encoders read whole images of one size: llava, internvl, gemma3, smolvlm."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from exporter.targets.onnx.families.base import Family, VisionGraph

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _Pixels(VisionGraph):
    """Inputs ``pixel_values`` [N, 3, H, W] float32; H and W are the ones of the config."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an image."""
        size = self.inner.config.vision_config.image_size
        height, width = size if isinstance(size, list | tuple) else (size, size)
        return int(height), int(width)

    def example(self) -> dict[str, Tensor]:
        return {"pixel_values": torch.randn(2, 3, *self.size)}

    def axes(self) -> dict[str, dict[int, str]]:
        return {"pixel_values": {0: "num_images"}}


class LlavaVision(_Pixels):
    """Tower and projector: -> ``image_features`` [N * tokens, d]."""

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        config, inner = self.inner.config, self.inner
        out = inner.vision_tower(pixel_values.to(self.dtype), output_hidden_states=True, return_dict=True)
        layers = config.vision_feature_layer
        chosen = [out.hidden_states[i] for i in ([layers] if isinstance(layers, int) else layers)]
        if config.vision_feature_select_strategy == "default":
            chosen = [states[:, 1:] for states in chosen]
        return {
            "image_features": inner.multi_modal_projector(torch.cat(chosen, dim=-1)).float().flatten(0, 1)
        }


class StockVision(_Pixels):
    """The stock ``get_image_features``, where it can be traced as it is: -> ``image_features`` [N * tokens, d]."""

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        out = self.inner.get_image_features(pixel_values=pixel_values.to(self.dtype), return_dict=True)
        return {"image_features": out.pooler_output.float().flatten(0, 1)}


class SmolVlmVision(_Pixels):
    """Tower and connector over images in rows: ``pixel_values`` [B, n, 3, H, W] -> ``image_features`` [B * n * tokens, d].

    ``pixel_attention_mask`` [B, n, H, W] bool is False where an image was padded to H x W. Stock code leaves out images
    that are all 0, the padding of rows with fewer images; how many are left depends on the data, so here every image
    counts, and whoever feeds the graph leaves the padding out.
    """

    def __init__(self, model: object) -> None:
        super().__init__(model)
        self.patch = int(self.inner.config.vision_config.patch_size)
        side = self.inner.vision_model.embeddings.num_patches_per_side
        # As stock code makes them; made here, they are constants, not sums that a runtime rounds in its own way.
        self.edges = nn.Buffer(torch.arange(1 / side, 1.0, 1 / side), persistent=False)

    def forward(self, pixel_values: Tensor, pixel_attention_mask: Tensor) -> dict[str, Tensor]:
        inner = self.inner
        seen = self._patches(pixel_attention_mask.flatten(0, 1))
        embeddings = inner.vision_model.embeddings
        stock = embeddings.forward
        embeddings.forward = partial(smolvlm_embed, embeddings, self.edges)
        try:
            pixels = pixel_values.flatten(0, 1).to(self.dtype)
            out = inner.vision_model(pixels, patch_attention_mask=seen, return_dict=True)
        finally:
            embeddings.forward = stock
        return {"image_features": inner.connector(out.last_hidden_state).float().flatten(0, 1)}

    def _patches(self, mask: Tensor) -> Tensor:
        """Pixels [N, H, W] that are no padding -> patches [N, h, w] that hold any of them; bool."""
        rows, columns = (side // self.patch for side in self.size)
        whole = mask[:, : rows * self.patch, : columns * self.patch].long()
        return whole.view(-1, rows, self.patch, columns, self.patch).sum((2, 4)) > 0

    def example(self) -> dict[str, Tensor]:
        mask = torch.ones(2, 3, *self.size, dtype=torch.bool)
        mask[1, 2, self.size[0] // 2 :] = False
        return {
            "pixel_values": torch.randn(2, 3, 3, *self.size),
            "pixel_attention_mask": mask,
        }

    def axes(self) -> dict[str, dict[int, str]]:
        images = {0: "batch_size", 1: "num_images"}
        return {"pixel_values": images, "pixel_attention_mask": images}


def smolvlm_embed(
    embeddings: Any, edges: Tensor, pixel_values: Tensor, patch_attention_mask: Tensor
) -> Tensor:
    """SmolVLMVisionEmbeddings.forward with the edges of its buckets given: -> [N, h * w, d].

    Args:
        edges: [side - 1], where one row of position embeddings ends and the next begins, as shares of an image.
        pixel_values: [N, 3, H, W].
        patch_attention_mask: [N, h, w] bool.
    """
    mask = patch_attention_mask
    places = []
    for axis, held in ((1, mask[:, :, 0]), (2, mask[:, 0, :])):
        index = torch.arange(mask.shape[axis], dtype=torch.float32, device=mask.device)
        share = (index * (1.0 / held.sum(1, keepdim=True))).clamp(max=1.0 - 1e-6)
        places.append((edges <= share.unsqueeze(-1)).long().sum(-1))
    down, across = places
    ids = down.unsqueeze(2) * embeddings.num_patches_per_side + across.unsqueeze(1)
    ids = torch.where(mask, ids, torch.zeros_like(ids)).flatten(1)
    patches = embeddings.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
    embedded: Tensor = patches + embeddings.position_embedding(ids)
    return embedded


class Llava(Family):
    """llava: features of whole images take the place of image tokens."""

    sees = True

    def vision(self, model: object) -> VisionGraph:
        return LlavaVision(model)


class InternVl(Family):
    """internvl: the same; tiles of one image are images to the encoder."""

    sees = True

    def vision(self, model: object) -> VisionGraph:
        return StockVision(model)


class SmolVlm(Family):
    """smolvlm: images come in rows, each with a mask of its padding."""

    sees = True

    def vision(self, model: object) -> VisionGraph:
        return SmolVlmVision(model)


class Gemma3(Family):
    """gemma3: tokens of one image attend to each other in both directions; ``token_type_ids`` [B, T] says which these are.

    1 stands for a token of an image, 0 for any other. Only images within the new tokens are known; with zeros, as behind
    a prompt, attention is causal.
    """

    sees = True

    def decode(self, model: PreTrainedModel, cache: Any, **inputs: Any) -> Tensor:
        # Stock code looks types up by absolute column, so the columns of the past stand before them.
        past = inputs["attention_mask"].shape[1] - inputs["token_type_ids"].shape[1]
        inputs["token_type_ids"] = nn.functional.pad(inputs["token_type_ids"], (past, 0))
        return super().decode(model, cache, **inputs)

    def example_extras(self, _model: object, batch: int, length: int) -> dict[str, object]:
        kinds = torch.zeros(batch, length, dtype=torch.long)
        kinds[:, : length // 2] = 1
        return {"token_type_ids": kinds}

    def extra_axes(self, _model: object) -> dict[str, object]:
        return {"token_type_ids": {0: "batch_size", 1: "sequence_length"}}

    def vision(self, model: object) -> VisionGraph:
        return StockVision(model)
