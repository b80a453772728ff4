"""Causal tracing (https://arxiv.org/abs/2202.05262): which blocks' MLPs tell the model what it knows of a subject.

Noise on the embeddings of a subject makes its response unlikely. Where the output of one block's MLP at the subject's last token is put back to what it is
without noise, the response becomes likely again as far as that MLP holds what is known.

Of the paper are the noise (three standard deviations of the embeddings), the column, and the mean over facts; it draws noise ten times for each of them, here each
of many rows has its own. A response may be many tokens and name its subject again: its probability is the geometric mean over its tokens, and every place that names
the subject is noised, and put back at its last token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from exporter.errors import FitError
from exporter.progress import ticked
from exporter.training.examples import Batch, Collator, Together
from exporter.training.losses import mean_nll
from exporter.training.mlp_inputs import down_projection
from exporter.training.step import noised, run_pass

if TYPE_CHECKING:
    from exporter.host import ModelHost
    from exporter.types import Encoded

_AT_ONCE = 8
"""Conversations of a batch, since the outputs of all MLPs are in memory together."""


class Fact(NamedTuple):
    """A conversation whose response is known of a subject, and the columns that name that: in order, some of them of its prompt."""

    sequence: Encoded
    named: Sequence[int]

    @property
    def last(self) -> list[int]:
        """The last column of every place that names the subject."""
        return [one for one in self.named if one + 1 not in self.named]


def recovered(host: ModelHost, facts: Sequence[Fact], *, noise: float, seed: int) -> Tensor:
    """What each block's MLP brings back of the probability that noise takes, as a share of it: float32 [blocks]; negative where it takes more.

    Args:
        noise: in standard deviations of the embeddings.

    Raises:
        FitError: noise takes nothing, so that there is nothing to bring back; or a block has no single down projection.
    """
    layers = {name: host.model.get_submodule(name) for name in _projections(host)}
    draw = torch.Generator().manual_seed(seed)
    spread = noise * float(host.model.get_input_embeddings().weight.detach().float().std())
    collate = Collator(host)
    back, taken = torch.zeros(len(layers)), 0.0
    for first in ticked(range(0, len(facts), _AT_ONCE), "causal tracing"):
        some = facts[first : first + _AT_ONCE]
        batch = collate([Together(one.sequence) for one in some])["forget"]
        shape = batch["input_ids"].shape
        added = spread * torch.randn(*shape, host.hidden_size, generator=draw)
        added *= _mask([one.named for one in some], shape)[..., None]
        there = {key: value.to(host.device) for key, value in batch.items()}
        clean, without, each = _traced(host, there, added, layers, _mask([one.last for one in some], shape))
        back += (each - without).sum(-1).cpu()
        taken += float((clean - without).sum())
    if not taken > 0:
        raise FitError(
            "noise on the subjects of the forget set takes nothing off the responses about them, so no block can be found that holds these; set `layers`"
        )
    return back / taken


def _projections(host: ModelHost) -> list[str]:
    return [down_projection(host, block) for block in range(host.num_layers)]


def _mask(columns: Sequence[Sequence[int]], shape: torch.Size) -> Tensor:
    """True at these columns of each row: bool [B, T]."""
    found = torch.zeros(shape, dtype=torch.bool)
    for row, places in enumerate(columns):
        found[row, list(places)] = True
    return found


@torch.no_grad()
def _traced(
    host: ModelHost, batch: Batch, noise: Tensor, layers: Mapping[str, nn.Module], mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities of the responses: clean [B], under noise [B], and under noise with each layer's output put back at the masked columns [layers, B]."""

    def probability() -> Tensor:
        logits = run_pass(host.model, batch, ()).logits
        return (-mean_nll(logits, batch["labels"].to(logits.device))).exp().float()

    with _outputs_of(layers) as known:
        clean = probability()
    each = []
    with noised(host.model.get_input_embeddings(), noise.to(host.device)):
        without = probability()
        for name, layer in layers.items():
            with _put_back(layer, known[name], mask.to(known[name].device)):
                each.append(probability())
    return clean, without, torch.stack(each)


@contextmanager
def _outputs_of(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Outputs [B, T, d] of these layers in the last pass, by name; complete after the block."""
    found: dict[str, Tensor] = {}

    def read(name: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        del layer, inputs
        found[name] = output.detach()

    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_hook(partial(read, name)).remove)
        yield found


@contextmanager
def _put_back(layer: nn.Module, known: Tensor, mask: Tensor) -> Iterator[None]:
    """Has a layer give at masked columns [B, T] what it gave before, [B, T, d], within the block."""

    def put(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        del layer, inputs
        return torch.where(mask[..., None], known, output)

    hook = layer.register_forward_hook(put)
    try:
        yield
    finally:
        hook.remove()
