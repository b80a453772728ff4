"""What a family says of itself: what its decoder reads beside tokens, and how its images become features."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from exporter.errors import CompileError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def own_forward(model: PreTrainedModel) -> Callable[..., Any]:
    """The forward of the stock class, also of a model that is steered by hooks around it."""
    forward: Callable[..., Any] = type(model).forward
    return getattr(forward, "__wrapped__", forward) if hasattr(model, "steering") else forward


class Family:
    """A text decoder; what a family does otherwise is a subclass.

    Attributes:
        sees: the model takes images, so its decoder reads embeddings.
        position_rows: 1, or 3 where positions are temporal, vertical and horizontal (M-RoPE).
    """

    sees = False
    position_rows = 1

    def decode(self, model: PreTrainedModel, cache: object, **inputs: object) -> Tensor:
        """Logits [B, T, V] of a pass; ``cache`` takes the new keys and values."""
        out = own_forward(model)(model, past_key_values=cache, use_cache=True, return_dict=True, **inputs)
        logits: Tensor = out.logits
        return logits

    def example_extras(self, _model: object, _batch: int, _length: int) -> dict[str, object]:
        """Further inputs of the decoder to trace with; [B, T] or [B, T, d], or lists of these."""
        return {}

    def extra_axes(self, _model: object) -> dict[str, object]:
        """Axes of the further inputs that vary, by name."""
        return {}

    def vision(self, model: object) -> VisionGraph:
        """The vision encoder; raises CompileError for a family that has none."""
        raise CompileError(f"{type(model).__name__} does not accept images")


class VisionGraph(nn.Module):
    """A vision encoder to trace: ``forward`` over the inputs of :meth:`example` gives the tensors it is named for.

    Runtimes make float32 of images, whatever the precision of the weights, so inputs and outputs are float32.
    ``image_features`` come first; what else there is belongs to the same image tokens and goes to the decoder's input of
    the same name.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.inner = model.model

    @property
    def dtype(self) -> torch.dtype:
        return next(self.inner.parameters()).dtype

    def example(self) -> dict[str, Tensor]:
        """Inputs to trace with."""
        raise NotImplementedError

    def axes(self) -> dict[str, dict[int, str]]:
        """Which axes of each input vary, by name."""
        raise NotImplementedError
