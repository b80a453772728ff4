"""The contract of an objective: a method that trains a LoRA adapter on a loss of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from exporter.digests import digest_of
from exporter.fitting.activations import model_digest
from exporter.fitting.context import FitContext
from exporter.methods.base import Yields
from exporter.splits import digest_of_rows
from exporter.training.examples import Collator, examples
from exporter.training.lora import as_edit, linear_layers, taken_out, with_adapter
from exporter.training.search import cheapest_edit
from exporter.training.settings import TrainingSettings
from exporter.training.trainer import train
from exporter.types import Role
from exporter.weight_edit import WeightEdit

if TYPE_CHECKING:
    from exporter.training.step import Step


class Objective(ABC):
    """One objective. A file and a line in ``registry.METHODS`` are all there is to add."""

    name: ClassVar[str]
    Params: ClassVar[type[TrainingSettings]] = TrainingSettings
    paper: ClassVar[str]
    yields: ClassVar[Yields] = "edit"
    sides: ClassVar[frozenset[str]] = frozenset({"forget"})
    """The parts of a step that its loss reads (:data:`exporter.training.examples.SIDES`)."""
    needs: ClassVar[Mapping[str, Sequence[Sequence[Role]]]]
    """Roles of which one each must stand in a part of the rows; they follow from ``sides``."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        wanted: list[Sequence[Role]] = [("forget",)]
        if cls.sides & {"retain", "reasoning"}:
            wanted.append(("retain", "reasoning"))
        if "refusal" in cls.sides:
            wanted.append(("unknown",))
        cls.needs = {"fit": wanted, "calibrate": [("forget",)]}

    @abstractmethod
    def loss(self, step: Step, params: Any) -> Tensor:
        """What is descended, one value a conversation: float32 [B]."""

    def layers(self, params: Any, blocks: int) -> list[int] | None:
        """Decoder blocks that are edited; None for all."""
        del params, blocks
        return None

    def fit(self, context: FitContext) -> WeightEdit:
        """The trained adapter; of several settings (:meth:`tried`), the one that does best on the calibration rows.

        Raises:
            DataError: the rows lack a side of the objective.
            FitError: the model has no layer to edit, or every training diverged.
        """
        params = context.params
        assert isinstance(params, TrainingSettings)
        attempts = [
            (partial(self.fit_once, replace(context, params=params.model_copy(update=one))), one)
            for one in self.tried(params)
        ]
        return cheapest_edit(context, "trained", attempts, rows=params.trial_rows)

    def tried(self, params: Any) -> list[dict[str, object]]:
        """What is trained with, and compared: learning rates, and what else a method searches."""
        return [{"learning_rate": rate} for rate in params.tried]

    def fit_once(self, context: FitContext) -> WeightEdit:
        """The adapter of one of these, which the context's parameters have; raises as :meth:`fit` does."""
        params = context.params
        assert isinstance(params, TrainingSettings)
        config, tensors = trained(
            context,
            params,
            lambda step: self.loss(step, params),
            name=self.name,
            sides=self.sides,
            blocks=self.layers(params, context.host.num_layers),
        )
        return as_edit(context, self.name, config, tensors)


def trained(
    context: FitContext,
    params: TrainingSettings,
    loss: Callable[[Step], Tensor],
    *,
    name: str,
    sides: frozenset[str],
    blocks: Sequence[int] | None = None,
    layers: Sequence[str] | None = None,
    table: str = "training",
    prepared: Callable[[nn.Module], AbstractContextManager[None]] | None = None,
) -> tuple[dict[str, object], dict[str, Tensor]]:
    """Trains one adapter on a loss; the model of the context is the base again afterwards.

    Args:
        name: of this training, different from those of others of the same parameters; its checkpoints are kept by it.
        sides: the parts of a step that the loss reads.
        blocks: decoder blocks that are edited; None for all.
        layers: full names of the linear layers that are edited, where it is not all of those blocks.
        table: of the report's record, for the losses.
        prepared: around the training, given the model with its new adapter.

    Returns:
        Content of ``adapter_config.json`` and the tensors, as peft would write them.
    """
    host = context.host
    found = examples(context, responses=params.responses, epochs=params.epochs, sides=sides)
    names = layers or linear_layers(host.model, vision=params.vision, blocks=blocks)
    rows = digest_of_rows(context.fit)
    inputs = [name, params.model_dump(), context.seed, rows, model_digest(host.model), str(host.dtype)]
    work = context.work / "training" / digest_of(inputs)[:32]
    with (
        seeded(context.seed),
        with_adapter(host.model, names, rank=params.rank, alpha=params.alpha) as tuned,
        prepared(tuned) if prepared is not None else nullcontext(),
    ):
        losses = train(
            tuned,
            loss,
            found,
            Collator(host),
            params,
            work=work,
            seed=context.seed,
            device=host.device,
            progress=context.progress,
        )
        config, tensors = taken_out(tuned)
    for one in losses:
        context.record(table, learning_rate=params.tried[0], **one)
    return config, tensors


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of this seed within the block; those of before after it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
