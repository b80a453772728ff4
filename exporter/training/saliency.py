"""Which rows of linear layers matter more to the forget set than to the retain set, by squared gradients (Fisher information)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from exporter.training.losses import mean_nll
from exporter.training.step import OURS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from exporter.training.examples import Batch

SMALLEST = 1e-15
"""Added to both sides of the ratio."""


def row_fisher(model: PreTrainedModel, names: Sequence[str], batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Squared gradients of -log p of the responses, mean over batches, summed over each row of a layer's weights: float32 [out] by name.

    No more than one layer's gradient is in memory at a time, and the model is as before.
    """
    layers = {name: model.get_submodule(name) for name in names}
    first = next(model.parameters()).device  # of the embeddings
    found: dict[str, Tensor] = {}
    with _gradients_of(model, layers, found):
        for batch in batches:
            there = {key: value.to(first) for key, value in batch.items()}
            logits = model(
                **{key: value for key, value in there.items() if key not in OURS}, use_cache=False
            ).logits
            mean_nll(logits, there["labels"].to(logits.device)).mean().backward()
    return {name: one / len(batches) for name, one in found.items()}


def salient(
    forget: Mapping[str, Tensor], retain: Mapping[str, Tensor], threshold: float
) -> dict[str, Tensor]:
    """Rows whose ratio of squared gradients is at least ``threshold``: bool [out] by name."""
    return {name: (one + SMALLEST) / (retain[name] + SMALLEST) >= threshold for name, one in forget.items()}


@contextmanager
def _gradients_of(
    model: PreTrainedModel, layers: Mapping[str, nn.Module], found: dict[str, Tensor]
) -> Iterator[None]:
    """Sums squared gradients of the layers into ``found`` as they come, and drops them."""
    before = {name: one.requires_grad for name, one in model.named_parameters()}
    model.requires_grad_(False)

    def add(name: str, across: int, weight: Tensor) -> None:
        assert weight.grad is not None
        rows = weight.grad.float().square().sum(across).cpu()
        found[name] = found[name] + rows if name in found else rows
        weight.grad = None

    hooks = []
    for name, layer in layers.items():
        across = 1 if isinstance(layer, nn.Linear) else 0  # Conv1D has its weights the other way round
        weight = layer.get_parameter("weight").requires_grad_(True)
        hooks.append(weight.register_post_accumulate_grad_hook(partial(add, name, across)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(before[name])


class RowMask:
    """Lets a loss move salient rows of an adapter's layers alone; other losses of the same step move all of them.

    The change of a layer is B A, and a row of it is one of B: where A is held, a row of B that gets no gradient does not move. A is held
    for the whole training, therefore (LoRA-FA, https://arxiv.org/abs/2308.03303).

    Args:
        rows: bool [out] by the full names of the layers.
    """

    def __init__(self, rows: Mapping[str, Tensor]) -> None:
        self._rows, self._masking = rows, False

    @contextmanager
    def masking(self) -> Iterator[None]:
        """Passes within the block send gradients to salient rows alone."""
        self._masking = True
        try:
            yield
        finally:
            self._masking = False

    @contextmanager
    def on(self, tuned: nn.Module) -> Iterator[None]:
        """Put on a ``PeftModel`` while it is trained."""
        hooks = []
        for name, rows in self._rows.items():
            layer = tuned.get_submodule(f"base_model.model.{name}")
            layer.get_submodule("lora_A.default").requires_grad_(False)
            last = layer.get_submodule("lora_B.default")
            hooks.append(last.register_forward_hook(self._hook(rows)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _hook(self, rows: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def held(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            del layer, inputs
            return torch.where(rows.to(output.device), output, output.detach()) if self._masking else output

        return held
