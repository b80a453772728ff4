"""The contract of an objective: a method that trains a LoRA adapter on a loss of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from exporter.digests import digest_of
from exporter.fitting.activations import model_digest
from exporter.fitting.context import FitContext
from exporter.fitting.refusals import wordings
from exporter.fitting.trials import Bench, Trial
from exporter.methods.base import Yields
from exporter.splits import digest_of_rows
from exporter.training.examples import Collator, Examples, examples
from exporter.training.lora import Diverged, linear_layers, taken_out, with_adapter
from exporter.training.settings import TrainingSettings
from exporter.training.trainer import train
from exporter.weight_edit import WeightEdit
from steer_modules.program import BaseModelRef

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

    @abstractmethod
    def loss(self, step: Step, params: Any) -> Tensor:
        """What is descended, one value a conversation: float32 [B]."""

    def layers(self, params: Any, blocks: int) -> list[int] | None:
        """Decoder blocks that are edited; None for all."""
        del params, blocks
        return None

    def fit(self, context: FitContext) -> WeightEdit:
        """The trained adapter; of several learning rates, the one that does best on the calibration rows.

        Raises:
            DataError: the rows lack a side of the objective.
            FitError: the model has no layer to edit, or every training diverged.
        """
        params = context.params
        assert isinstance(params, TrainingSettings)
        found = examples(context, responses=params.responses, epochs=params.epochs, sides=self.sides)
        rates = params.tried
        bench = None
        if len(rates) > 1:
            chosen = wordings(context) if context.rows("fit", "unknown") else []
            bench = Bench(context, chosen, forget=params.trial_rows, keep=params.trial_rows)
        best: tuple[float, WeightEdit] | None = None
        for rate in rates:
            at = params.model_copy(update={"learning_rate": rate})
            try:
                edit, trial = self._trained(context, at, found, bench)
            except Diverged:
                if best is None and rate == rates[-1]:
                    raise
                continue
            if trial is not None:
                context.record("trained", learning_rate=rate, **trial.line())
            cost = 0.0 if trial is None else trial.cost
            if best is None or cost < best[0] - 1e-9:
                best = cost, edit
        assert best is not None
        return best[1]

    def _trained(
        self, context: FitContext, params: TrainingSettings, found: Examples, bench: Bench | None
    ) -> tuple[WeightEdit, Trial | None]:
        """The adapter of one training, and what it does on the calibration rows if there is a bench."""
        host = context.host
        names = linear_layers(host.model, vision=params.vision, blocks=self.layers(params, host.num_layers))
        rows = digest_of_rows(context.fit)
        inputs = [
            self.name,
            params.model_dump(),
            context.seed,
            rows,
            model_digest(host.model),
            str(host.dtype),
        ]
        with (
            seeded(context.seed),
            with_adapter(host.model, names, rank=params.rank, alpha=params.alpha) as tuned,
        ):
            losses = train(
                tuned,
                lambda step: self.loss(step, params),
                found,
                Collator(host),
                params,
                work=context.work / "training" / digest_of(inputs)[:32],
                seed=context.seed,
                device=host.device,
                progress=context.progress,
            )
            config, tensors = taken_out(tuned)
            tuned.eval()
            trial = None if bench is None else bench.measure()
        for one in losses:
            context.record("training", learning_rate=params.learning_rate, **one)
        base = BaseModelRef(host.architecture, host.model_type)
        return WeightEdit(self.name, base, context.seed, rows, config, tensors), trial


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of this seed within the block; those of before after it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
