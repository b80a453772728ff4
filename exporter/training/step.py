"""One step of a training, as its objective sees it: batches by side, and passes of the edited model and of its base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from exporter.training.examples import Batch
from exporter.training.labelled_columns import before_labels, head_over
from exporter.training.short_attention import attention_for
from steer_modules.steered_model import decoder_blocks

OURS = ("labels", "reasoning", "answer")
"""Keys of a batch that no model takes."""


class Pass(NamedTuple):
    """What a model expects, and outputs [B, T, d] of the blocks that were asked for, by layer.

    Attributes:
        logits: of a batch with labels [N, V], of the columns before its labelled tokens, row by row
            (:func:`exporter.training.labelled_columns.before_labels`); of one without [B, T, V].
    """

    logits: Tensor
    states: Mapping[int, Tensor]


class Step:
    """Batches of one step; the same pass is run once.

    Args:
        model: the edited model as it trains, wrapped for its processes.
        plain: the same ``PeftModel`` itself, whose adapter can be left out.
        sides: batches by :data:`exporter.training.examples.SIDES`.
    """

    def __init__(self, model: Any, plain: Any, sides: Mapping[str, Batch]) -> None:
        self.model, self._plain, self.sides = model, plain, sides
        self._passes: dict[tuple[bool, int, tuple[int, ...]], Pass] = {}

    @property
    def forget(self) -> Batch:
        """Conversations of the forget set."""
        return self.sides["forget"]

    @property
    def retain(self) -> Batch:
        """Conversations of the retain set."""
        return self.sides["retain"]

    @property
    def reasoning(self) -> Batch:
        """Conversations of general reasoning."""
        return self.sides["reasoning"]

    @property
    def refusal(self) -> Batch:
        """The prompts of ``forget``, answered by refusals."""
        return self.sides["refusal"]

    @property
    def other(self) -> Batch:
        """The prompts of ``forget``, answered as other forget prompts are."""
        return self.sides["other"]

    @property
    def blocks(self) -> int:
        """How many blocks the decoder has."""
        return len(decoder_blocks(self._plain.get_base_model()))

    def edited(self, batch: Batch, layers: Sequence[int] = ()) -> Pass:
        """The edited model on a batch, with gradients."""
        return self._once(True, batch, layers)

    def base(self, batch: Batch, layers: Sequence[int] = ()) -> Pass:
        """The model without its adapter and without dropout, without gradients."""
        return self._once(False, batch, layers)

    def perturbed(self, batch: Batch, noise: Tensor) -> Pass:
        """The base on a batch to whose embeddings noise [B, T, d] is added, without gradients."""
        with noised(self._plain.get_input_embeddings(), noise):
            return self._base(batch, ())

    @property
    def embeddings(self) -> Tensor:
        """What the base looks tokens up in, [V, d]."""
        return self._plain.get_input_embeddings().weight.detach()

    def _once(self, edited: bool, batch: Batch, layers: Sequence[int]) -> Pass:
        key = edited, id(batch), tuple(layers)
        if key not in self._passes:
            self._passes[key] = run_pass(self.model, batch, layers) if edited else self._base(batch, layers)
        return self._passes[key]

    def _base(self, batch: Batch, layers: Sequence[int]) -> Pass:
        training = self._plain.training
        self._plain.eval()
        try:
            with torch.no_grad(), self._plain.disable_adapter():
                return run_pass(self._plain, batch, layers)
        finally:
            self._plain.train(training)


@contextmanager
def noised(embeddings: nn.Module, noise: Tensor) -> Iterator[None]:
    """Adds noise [B, T, d] to what embeddings give within the block."""

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        del layer, inputs
        return output + noise.to(output)

    hook = embeddings.register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()


def run_pass(model: Any, batch: Batch, layers: Sequence[int]) -> Pass:
    """One pass over a batch, whatever else it holds."""
    inputs = {key: value for key, value in batch.items() if key not in OURS}
    labels = batch.get("labels")
    with head_over(model, labels) as cut, attention_for(batch["input_ids"]):
        out = model(**inputs, use_cache=False, output_hidden_states=bool(layers))
    logits = out.logits
    if labels is not None:
        logits = logits[0] if cut else before_labels(logits, labels.to(logits.device))
    return Pass(logits, {layer: out.hidden_states[layer + 1] for layer in layers})
