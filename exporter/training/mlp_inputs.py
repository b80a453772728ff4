"""The neurons of a block: the inputs of the linear layer that leads from its MLP back to the residual stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from exporter.errors import FitError
from exporter.training.lora import linear_layers

if TYPE_CHECKING:
    from exporter.host import ModelHost
    from exporter.types import Encoded

DOWN = ("down_proj", "mlp.c_proj", "dense_4h_to_h", "fc2", "fc_out", "w2", "proj_2", "output_linear")
"""How the layer is called by Llama and its like, GPT-2, GPT-NeoX, OPT and Phi, GPT-J, and others."""


def down_projection(host: ModelHost, block: int) -> str:
    """Full name of the layer, of one block.

    Raises:
        FitError: the block has none, or several, as a mixture of experts does.
    """
    names = linear_layers(host.model, blocks=[block])
    found = [name for name in names if any(f".{name}".endswith(f".{end}") for end in DOWN)]
    if len(found) != 1:
        raise FitError(
            f"block {block} of {host.architecture} has {len(found) or 'no'} linear layers that lead from an MLP back to the residual stream, "
            "and this method edits blocks that have one; use a method that trains (npo)"
        )
    return found[0]


@contextmanager
def inputs_of(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Inputs [B, T, in] of these layers in the last pass, by name, while the block runs."""
    found: dict[str, Tensor] = {}

    def read(name: str, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        del layer
        found[name] = inputs[0].detach()

    hooks = [layer.register_forward_pre_hook(partial(read, name)) for name, layer in layers.items()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def batches_of_inputs(
    host: ModelHost, names: Sequence[str], items: Sequence[Encoded], batch_size: int
) -> Iterator[tuple[Sequence[Encoded], dict[str, Tensor]]]:
    """Sequences in batches, padded on the right, with the inputs [B, T, in] of these layers."""
    layers = {name: host.model.get_submodule(name) for name in names}
    with inputs_of(layers) as found, torch.no_grad():
        for first in range(0, len(items), batch_size):
            chosen = items[first : first + batch_size]
            host.model(**host.batch(chosen, "right"), use_cache=False)
            yield chosen, dict(found)
