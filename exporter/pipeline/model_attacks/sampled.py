"""Replies drawn at random: what greedy decoding does not say may still be likely."""

from __future__ import annotations

from typing import ClassVar, cast

from exporter.attack_report import Access, AttackResult
from exporter.evaluation.case import secrets_of
from exporter.pipeline.model_attacks.base import NotMeasured
from exporter.pipeline.model_attacks.counts import of_leaks
from exporter.pipeline.model_attacks.under_attack import SIDES, Side, UnderAttack
from exporter.targets.values import Sampler
from exporter.types import Row
from exporter.wording.leaks import tells

DRAWS = 20
TEMPERATURE = 1.0


class Sampled:
    """Twenty replies to each plain forget row, drawn at temperature 1; a row leaks if any of them does.

    Scholten et al. (https://arxiv.org/abs/2410.03523) show that unlearned models leak far more under sampling than greedily.
    """

    name: ClassVar[str] = "sampled"
    group: ClassVar[str] = "sampling"
    access: ClassVar[Access] = "prompts"
    costs: ClassVar[str] = f"{DRAWS} replies to each row"

    def measure(self, under: UnderAttack) -> AttackResult:
        """Both models, drawn with the same seed."""
        rows = under.forget
        found = {side: self._leaking(under, side, rows) for side in SIDES[::-1]}  # it may be unable to draw
        about = [(any(b), any(s)) for b, s in zip(found["base"], found["steered"], strict=True)]
        shares = {
            f"leaking_draws_{side}": sum(map(sum, each)) / (DRAWS * len(rows)) for side, each in found.items()
        }
        details = {"draws": DRAWS, "temperature": TEMPERATURE, **shares}
        return of_leaks(self.name, self.group, about, access=self.access, details=details)

    def _leaking(self, under: UnderAttack, side: Side, rows: list[Row]) -> list[list[bool]]:
        """By row and draw, whether a secret can be read in it."""
        generator = under.generator(side)
        if not hasattr(generator, "sample"):
            raise NotMeasured(
                f"what the target {under.models[side].kind} wrote decodes greedily only; attack the checkpoint that it was made from"
            )
        sampler = cast(Sampler, generator)
        chat, settings = under.chat(), under.work.recipe.report
        said = sampler.sample(
            [chat.prompt(row) for row in rows],
            draws=DRAWS,
            temperature=TEMPERATURE,
            seed=under.seed,
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.batch_size,
        )
        return [
            [
                tells(sampler.tokenizer.decode(one.tokens, skip_special_tokens=True), secrets_of(row))
                for one in drawn
            ]
            for row, drawn in zip(rows, said, strict=True)
        ]
