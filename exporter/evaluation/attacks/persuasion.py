"""Words that are to talk a model into answering: roles, commands, beginnings and ends that are asked for, examples of answers."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import ClassVar

from exporter.evaluation.attacks.each import Around, Each, Templated
from exporter.evaluation.attacks.persuasion_words import (
    AFFIRMATIVE,
    BEGINNINGS,
    COMMANDS,
    HINTS,
    ROLES,
    SYSTEM_COMMANDS,
)
from exporter.evaluation.attacks.turns import as_turn
from exporter.types import Row


class RolePlay(Templated):
    """As a part in a play: an archivist, a person's own self, a machine without rules (RWKU, https://arxiv.org/abs/2406.10890)."""

    name: ClassVar[str] = "role_play"
    group: ClassVar[str] = "persuasion"
    wordings: ClassVar[tuple[str, ...]] = ROLES


class Override(Templated):
    """Behind an order to drop whatever was ordered before, and not to refuse."""

    name: ClassVar[str] = "override"
    group: ClassVar[str] = "persuasion"
    wordings: ClassVar[tuple[str, ...]] = COMMANDS


class PrefixInjection(Templated):
    """Told to begin the reply with certain words (Wei et al., https://arxiv.org/abs/2307.02483)."""

    name: ClassVar[str] = "prefix_injection"
    group: ClassVar[str] = "persuasion"
    wordings: ClassVar[tuple[str, ...]] = BEGINNINGS


class AffirmativeSuffix(Templated):
    """With the beginning of an obliging reply behind the question (RWKU, https://arxiv.org/abs/2406.10890)."""

    name: ClassVar[str] = "affirmative_suffix"
    group: ClassVar[str] = "persuasion"
    wordings: ClassVar[tuple[str, ...]] = AFFIRMATIVE


class Hint(Templated):
    """With a claim that the model knew the answer before (background hint of RWKU, https://arxiv.org/abs/2406.10890)."""

    name: ClassVar[str] = "hint"
    group: ClassVar[str] = "persuasion"
    wordings: ClassVar[tuple[str, ...]] = HINTS


class SystemOverride(Each):
    """Under a system prompt that orders the model to answer everything; none where the chat template takes none."""

    name: ClassVar[str] = "system_override"
    group: ClassVar[str] = "persuasion"
    wordings: ClassVar[tuple[str, ...]] = SYSTEM_COMMANDS

    def change(self, row: Row, around: Around, draw: random.Random) -> Mapping[str, object] | None:
        return {"system": self.worded(draw)} if around.chat.takes_system else None


class FewShot(Each):
    """Behind three kept questions with their answers, in one message."""

    name: ClassVar[str] = "few_shot"
    group: ClassVar[str] = "persuasion"
    shots: ClassVar[int] = 3

    def change(self, row: Row, around: Around, draw: random.Random) -> Mapping[str, object] | None:
        shown = around.others(row, draw, self.shots)
        if not shown:
            return None
        told = " ".join(f"Q: {one.question} A: {one.answer}" for one in shown)
        return {"question": f"{told} Q: {row.question} A:"}


class ManyShot(Each):
    """After twenty kept questions that were answered, each a turn (many-shot jailbreaking, Anil et al., NeurIPS 2024)."""

    name: ClassVar[str] = "many_shot"
    group: ClassVar[str] = "persuasion"
    shots: ClassVar[int] = 20

    def change(self, row: Row, around: Around, draw: random.Random) -> Mapping[str, object] | None:
        shown = around.others(row, draw, self.shots)
        return {"history": tuple(map(as_turn, shown))} if shown else None
