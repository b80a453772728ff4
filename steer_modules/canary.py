"""A program's canary: the model's output for a few tokens, tested if the weights differ from those it was fitted on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def check_canary(model: Any) -> None:
    """Raises RuntimeError if a model with changed weights does not generate the canary's tokens, or the program has no canary."""
    canary = model.steering.section.get("canary")
    if not canary:
        raise RuntimeError(
            "this program has no canary, so steering cannot be tested with changed weights; fit it again on the changed model, or compile "
            "a program that 'steerbake fit' wrote, which has one"
        )
    for index, one in enumerate(canary):
        wanted, said = one["argmax"], likeliest(model, one["ids"], one["gate"], len(one["argmax"]))
        if said != wanted:
            raise RuntimeError(
                f"canary {index} (gates forced to {one['gate']}) generates {said}, not {wanted}: the weights changed too much for this "
                "steering. Fit it again on the changed model"
            )


def likeliest(model: Any, ids: list[int], gate: int, count: int) -> list[int]:
    """The likeliest next token at the last ``count`` columns of a sequence, with every gate forced to ``gate``."""
    return [int(token) for token in last_logits(model, ids, gate, count).argmax(-1)]


def last_logits(model: Any, ids: list[int], gate: int, count: int) -> Tensor:
    """Logits [count, V] of the last columns of a sequence, with every gate forced to ``gate``."""
    device = model.get_input_embeddings().weight.device
    tokens = torch.tensor([ids], device=device)
    forced = torch.full((1, len(model.steering.gate_names)), float(gate), device=device)
    with torch.no_grad():
        out = model(
            input_ids=tokens, attention_mask=torch.ones_like(tokens), steering_gate=forced, use_cache=False
        )
    logits: Tensor | None = getattr(out, "logits", None)
    if logits is None:
        raise RuntimeError(
            f"{type(model).__name__} has no logits, which the canary needs; load changed weights with the class that has a head"
        )
    return logits[0, -count:].float()
