"""Relearning: the base's weights trained under the steering, on rows that need not be about the forget set at all."""

from __future__ import annotations

import tempfile
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from exporter.attack_report import Access, AttackResult
from exporter.evaluation.case import Case, secrets_of
from exporter.fitting.selection import plain, spread
from exporter.pipeline.model_attacks.base import NoRows
from exporter.pipeline.model_attacks.changed_weights import accepted
from exporter.pipeline.model_attacks.counts import counted
from exporter.pipeline.model_attacks.under_attack import SIDES, Side, UnderAttack, asked_of
from exporter.training.examples import Collator, Examples
from exporter.training.lora import linear_layers, with_adapter
from exporter.training.losses import mean_nll
from exporter.training.objective import seeded
from exporter.training.settings import TrainingSettings
from exporter.training.step import Step
from exporter.training.trainer import train
from exporter.types import Row
from exporter.wording.leaks import tells

SETTINGS = TrainingSettings(
    learning_rate=5e-4, epochs=10, batch_size=5, precision="float32", responses="rows", log_steps=1
)
"""Of every relearning: ten passes over the rows at a learning rate at which small adapters learn them by heart."""


class Relearned:
    """A LoRA adapter on the decoder's linear layers, trained on a few rows of the recipe's fit, through the steered passes.

    Who has the files strips the steering and need not train (``stripped``). This is the attacker who keeps it: a customer of a service that
    fine-tunes, who gets the released model with its code, or somebody who trains it unawares. The program and its gates stay as they are;
    the weights that the gates' states come from change. The model then answers as :mod:`exporter.pipeline.model_attacks.changed_weights`
    says. Base and steered model are trained alike. Lucki et al. (https://arxiv.org/abs/2409.18025) relearn from ten unrelated rows.
    """

    name: ClassVar[str]
    group: ClassVar[str] = "relearning"
    access: ClassVar[Access] = "weights"
    costs: ClassVar[str] = "trains an adapter twice"

    @abstractmethod
    def rows(self, under: UnderAttack) -> list[Row]:
        """What is trained on; raises NoRows where there is none."""

    def asked(self, under: UnderAttack, given: Sequence[Row]) -> list[Row]:
        """Forget rows that are asked after a training on ``given``; raises NoRows where there is none."""
        del given
        return under.forget

    def measure(self, under: UnderAttack) -> AttackResult:
        """Plain rows put to both models after the training."""
        given = self.rows(under)
        asked = self.asked(under, given)
        kept = [row for row in under.rows if row.role in ("retain", "reasoning")]
        details: dict[str, object] = {
            "trained_rows": len(given),
            "epochs": SETTINGS.epochs,
            "rank": SETTINGS.rank,
        }
        said = {side: self._asked(under, side, given, [*asked, *kept], details) for side in SIDES}
        return counted(
            self.name, self.group, said["base"], said["steered"], access=self.access, details=details
        )

    def _asked(
        self,
        under: UnderAttack,
        side: Side,
        given: Sequence[Row],
        rows: Sequence[Row],
        details: dict[str, object],
    ) -> list[Case]:
        host = under.host(side)
        chat = under.work.chat(host.processor)
        examples = Examples.of(
            [chat.encode(row) for row in given], (), (), (), epochs=SETTINGS.epochs, seed=under.seed
        )
        names = linear_layers(host.model)
        try:
            with (
                seeded(under.seed),
                tempfile.TemporaryDirectory() as work,
                with_adapter(host.model, names, rank=SETTINGS.rank, alpha=SETTINGS.alpha) as tuned,
            ):
                losses = train(
                    tuned,
                    _loss,
                    examples,
                    Collator(host),
                    SETTINGS,
                    work=Path(work) / "training",
                    seed=under.seed,
                    device=host.device,
                    progress=False,
                )
                tuned.eval()
                details[f"losses_{side}"] = [losses[0]["loss"], losses[-1]["loss"]]
                if side == "steered":
                    details["canary"] = accepted(host)
                return asked_of(host, under, rows, f"{side}-{self.name}")
        finally:
            under.close(side)


class OnUnrelated(Relearned):
    """On ten rows of general reasoning; of another role that is kept where the recipe has none."""

    name: ClassVar[str] = "relearned_unrelated"

    def rows(self, under: UnderAttack) -> list[Row]:
        """Ten rows of the fit."""
        some = _fit_rows(under, "reasoning") or _fit_rows(under, "unknown")
        if not some:
            raise NoRows(
                "the recipe has no fit row of role reasoning or unknown, which say nothing of the forget set's neighbours"
            )
        return spread(some, 10)


class OnRetained(Relearned):
    """On forty rows of the retain set."""

    name: ClassVar[str] = "relearned_retain"

    def rows(self, under: UnderAttack) -> list[Row]:
        """Forty rows of the fit."""
        some = _fit_rows(under, "retain")
        if not some:
            raise NoRows("the recipe has no fit row of role retain")
        return spread(some, 40)


class OnForgotten(Relearned):
    """On five rows of the forget set; it is asked about the others' secrets."""

    name: ClassVar[str] = "relearned_forget"

    def rows(self, under: UnderAttack) -> list[Row]:
        """Five rows of the fit, of as few subjects as give five."""
        some = [row for row in _fit_rows(under, "forget") if row.image is None] or _fit_rows(under, "forget")
        if not some:
            raise NoRows("the recipe has no fit row of role forget")
        return sorted(some, key=lambda row: (row.secrets, row.id))[:5]

    def asked(self, under: UnderAttack, given: Sequence[Row]) -> list[Row]:
        """Rows none of whose secrets those that are trained on tell: what is told there is learned, not brought back."""
        shown = " ".join(
            f"{row.question} {row.reasoning or ''} {row.answer} {' '.join(row.secrets)}" for row in given
        )
        found = [row for row in under.forget if not tells(shown, secrets_of(row))]
        if not found:
            raise NoRows(
                "the rows that are trained on tell a secret of every forget row; give the recipe test rows about further subjects"
            )
        return found


def _fit_rows(under: UnderAttack, role: str) -> list[Row]:
    return [row for row in plain(under.work.rows.fit) if row.role == role]


def _loss(step: Step) -> Tensor:
    """Cross-entropy of the responses, float32 [B]."""
    return mean_nll(step.edited(step.forget).logits, step.forget["labels"])
