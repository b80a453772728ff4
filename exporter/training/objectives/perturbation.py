"""PerMU (https://arxiv.org/abs/2502.19982): the model learns what it would say if it did not know whom it is asked about.

Noise on the embeddings of a question's subject makes the base unaware of the fact. What it says then, less what it says otherwise, is the teacher:

    z = z_perturbed - C z_clean,    L = KL(softmax(z) || model) on the forget set + w CE(retain)

Where a response names the subject itself, the teacher of those tokens is the clean one. C = 0.1, as in the paper's code.

Choices: both sides are of the base, which stays as it is (in the code, of the model as it trains). Noise is normal, in standard deviations of the
embeddings, and drawn anew each step (in the code, of 0.4 in absolute terms, always the same, and not on every family at the embeddings). The code
reads subjects from its data; here the subject is what tells a row's question from others of its `template_id`, and of a row without a template the
whole question. The paper's later choice of tokens by the model's sensitivity is not done here.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from exporter.errors import DataError
from exporter.fitting.context import FitContext
from exporter.fitting.space import Between
from exporter.training.examples import Batch, examples
from exporter.training.labelled_columns import labelled
from exporter.training.losses import divergence
from exporter.training.objective import Objective
from exporter.training.objectives import retaining
from exporter.training.objectives.retaining import Retaining
from exporter.training.step import Step
from exporter.training.subject_columns import columns_of, named_subjects
from exporter.weight_edit import WeightEdit


class PerturbationParams(Retaining):
    """Parameters of PerMU."""

    contrast: Annotated[float, Between(0.0, 1.0)] = Field(default=0.1, ge=0)
    """The paper's C: how much of what the base says otherwise is taken off its perturbed logits."""
    noise: Annotated[float, Between(1.0, 10.0)] = Field(default=3.0, gt=0)
    """Noise on the subject's tokens, in standard deviations of the embeddings."""


class Perturbation(Objective):
    """Self-distillation from the perturbed base."""

    name = "perturbation"
    paper = "https://arxiv.org/abs/2502.19982"
    Params: ClassVar[type[PerturbationParams]] = PerturbationParams
    sides: ClassVar[frozenset[str]] = frozenset({"forget", "retain"})

    def __init__(self) -> None:
        self.columns: dict[tuple[int, ...], list[int]] = {}
        """Where each forget conversation, by its ids, names its subject."""
        self._spread: float | None = None

    def fit_once(self, context: FitContext) -> WeightEdit:
        params = context.params
        assert isinstance(params, PerturbationParams)
        self.columns = subject_columns(context, params)
        return super().fit_once(context)

    def loss(self, step: Step, params: PerturbationParams) -> Tensor:
        forget = step.forget
        named = self._named(forget)
        if self._spread is None:
            self._spread = float(step.embeddings.float().std())
        shape = (*named.shape, step.embeddings.shape[-1])
        noise = params.noise * self._spread * torch.randn(shape, device=named.device) * named[..., None]
        clean = step.base(forget).logits.float()
        teacher = step.perturbed(forget, noise).logits.float() - params.contrast * clean
        says_subject = named[:, 1:][labelled(forget["labels"])]  # in the place of the column that predicts it
        teacher = torch.where(says_subject[..., None], clean, teacher)
        found = divergence(teacher, step.edited(forget).logits, forget["labels"])
        return found + params.retain_weight * retaining.nll(step)

    def _named(self, batch: Batch) -> Tensor:
        """Columns that name the subject: bool [B, T]."""
        ids, real = batch["input_ids"], batch["attention_mask"].sum(-1)
        found = torch.zeros_like(ids, dtype=torch.bool)
        for row, (tokens, length) in enumerate(zip(ids.tolist(), real.tolist(), strict=True)):
            found[row, self.columns[tuple(tokens[:length])]] = True
        return found


def subject_columns(context: FitContext, params: PerturbationParams) -> dict[tuple[int, ...], list[int]]:
    """Where the forget conversations name their subjects: columns by the ids of prompt and response.

    Raises:
        DataError: a row's subject is a picture, or its words are not in its prompt.
    """
    rows = context.filled(context.need("fit", "forget"))
    found = examples(context, responses=params.responses, epochs=1, sides=frozenset({"forget"}))
    columns = {}
    for row, name, sequence in zip(rows, named_subjects(context, rows), found.forget, strict=True):
        places = columns_of(context.host.tokenizer, sequence, name)
        if not places or places[0] >= len(sequence.prompt.ids):
            raise DataError(
                f"row {row.id}: its prompt does not contain {name!r} as the tokenizer reads it back"
            )
        columns[(*sequence.prompt.ids, *sequence.response)] = places
    return columns
