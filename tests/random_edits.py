"""A LoRA edit of random matrices, as a training might leave it."""

from __future__ import annotations

from pathlib import Path

import torch

from exporter.targets.edited_base import edited_base
from exporter.training.lora import linear_layers, taken_out, with_adapter
from exporter.weight_edit import WeightEdit
from steer_modules.program import BaseModelRef


def random_edit(base: Path, model, *, vision: bool = False, seed: int = 0) -> WeightEdit:
    """A LoRA edit of every linear layer of a model that was saved to ``base``."""
    names = linear_layers(model, vision=vision)
    with torch.random.fork_rng(), with_adapter(model, names, rank=3, alpha=7) as tuned:
        torch.manual_seed(seed)
        with torch.no_grad():
            for name, one in tuned.named_parameters():
                if "lora_" in name:
                    one.copy_(torch.randn(one.shape) * 0.05)
        config, tensors = taken_out(tuned)
    of = BaseModelRef(type(model).__name__, model.config.model_type)
    return WeightEdit("random", of, seed, "0" * 64, config, tensors).bound_to(edited_base(base))
