"""How the model of each family is cut into graphs: what its decoder reads, and its vision encoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from exporter.errors import CompileError


class Family:
    """A text decoder; what a family does otherwise is a subclass.

    Attributes:
        sees: the model takes images, so its decoder reads embeddings.
        position_rows: 1, or 3 where positions are temporal, vertical and horizontal (M-RoPE).
    """

    sees = False
    position_rows = 1

    def decode(self, model: Any, cache: Any, **inputs: Any) -> Tensor:
        """Logits [B, T, V] of a pass; ``cache`` takes the new keys and values."""
        forward = getattr(type(model).forward, "__wrapped__", type(model).forward)
        out = forward(model, past_key_values=cache, use_cache=True, return_dict=True, **inputs)
        logits: Tensor = out.logits
        return logits

    def example_extras(self, _model: Any, _batch: int, _length: int) -> dict[str, Tensor]:
        """Further inputs of the decoder to trace with."""
        return {}

    def extra_axes(self, _model: Any) -> dict[str, Any]:
        """Axes of the further inputs that vary, by name."""
        return {}

    def vision(self, model: Any) -> VisionGraph:
        """The vision encoder; raises CompileError for a family that has none."""
        raise CompileError(f"{type(model).__name__} takes no images")


class VisionGraph(nn.Module):
    """A vision encoder to trace: ``forward`` over the inputs of :meth:`example` gives the tensors it is named for."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.inner = model.model

    def example(self) -> dict[str, Tensor]:
        """Inputs to trace with."""
        raise NotImplementedError

    def axes(self) -> dict[str, dict[int, str]]:
        """Which axes of each input vary, by name."""
        raise NotImplementedError


class _Pixels(VisionGraph):
    """Inputs of encoders that read whole images of one size: ``pixel_values`` [N, 3, S, S]."""

    def example(self) -> dict[str, Tensor]:
        size = self.inner.config.vision_config.image_size
        height, width = size if isinstance(size, list | tuple) else (size, size)
        dtype = next(self.inner.parameters()).dtype
        return {"pixel_values": torch.randn(2, 3, height, width, dtype=dtype)}

    def axes(self) -> dict[str, dict[int, str]]:
        return {"pixel_values": {0: "num_images"}}


class LlavaVision(_Pixels):
    """Tower and projector: -> ``image_features`` [N, tokens, d]."""

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        config, inner = self.inner.config, self.inner
        out = inner.vision_tower(pixel_values, output_hidden_states=True, return_dict=True)
        layers = config.vision_feature_layer
        chosen = [out.hidden_states[i] for i in ([layers] if isinstance(layers, int) else layers)]
        if config.vision_feature_select_strategy == "default":
            chosen = [states[:, 1:] for states in chosen]
        return {"image_features": inner.multi_modal_projector(torch.cat(chosen, dim=-1)).float()}


class Llava(Family):
    """llava: features of whole images take the place of image tokens."""

    sees = True

    def vision(self, model: Any) -> VisionGraph:
        return LlavaVision(model)


FAMILIES: dict[str, Family] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma3_text", "gpt2"), Family()),
    "llava": Llava(),
}


def family_of(model_type: str) -> Family:
    """The family of a stock model type; raises CompileError where its graphs are not tested."""
    if model_type not in FAMILIES:
        raise CompileError(
            f"models of type {model_type!r} cannot be exported to ONNX; those that can: {', '.join(FAMILIES)}"
        )
    return FAMILIES[model_type]
