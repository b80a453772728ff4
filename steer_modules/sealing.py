"""Modules inside a steered model, which nobody may save alone: what would be written would have no steering."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel


class _Sealed:
    """Replaces ``save_pretrained`` and ``push_to_hub`` of a module inside a steered model."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: object, **kwargs: object) -> None:  # noqa: ARG002 - whatever a caller gives
        raise RuntimeError(
            f"the {self.name} inside a steered model has no steering of its own, so saving it would write an unsteered model. "
            "Save the steered model itself"
        )


def seal_inner(model: PreTrainedModel, blocks: torch.nn.ModuleList) -> list[torch.nn.Module]:
    """Lets no module inside ``model`` that holds its decoder blocks be saved on its own; returns those modules."""
    first = next(iter(blocks))
    sealed = []
    for module in model.modules():
        holds = module is not model and any(part is first for part in module.modules())
        if holds and hasattr(module, "save_pretrained"):
            for method in ("save_pretrained", "push_to_hub"):
                module.__dict__[method] = _Sealed(type(module).__name__)
            sealed.append(module)
    return sealed


def unseal_inner(model: PreTrainedModel) -> None:
    """Undoes :func:`seal_inner`."""
    for module in model.__dict__.pop("_sealed", ()):
        for method in ("save_pretrained", "push_to_hub"):
            module.__dict__.pop(method, None)
