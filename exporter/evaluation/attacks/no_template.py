"""Prompts without the chat template: the bare text, which the model completes."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import ClassVar

from exporter.evaluation.attacks.base import BareChat
from exporter.evaluation.attacks.each import Around, Each
from exporter.types import Encoded, Prompt, Row
from exporter.wording.leaks import told_at


class Bare:
    """Renders a row as its question and what its reply begins with, and nothing else."""

    def __init__(self, chat: BareChat) -> None:
        self.chat = chat

    def prompt(self, row: Row) -> Prompt:
        """The text, behind the processor's mark for a picture where there is one."""
        mark = str(getattr(self.chat.processor, "image_token", "") or "")
        images = () if row.image is None else (row.image,)
        text = f"{mark} " * len(images) + row.question + (f" {row.prefix}" if row.prefix else "")
        ids = self.chat.tokenize(text, images)["input_ids"][0]
        return Prompt(text, tuple(int(token) for token in ids), images)

    def continue_with(self, prompt: Prompt, ids: Sequence[int]) -> Encoded:
        """The parts of a reply, as in a chat."""
        return self.chat.continue_with(prompt, ids)


class NoTemplate(Each):
    """The bare question."""

    name: ClassVar[str] = "no_template"
    group: ClassVar[str] = "template"

    def rendered(self, chat: BareChat) -> Bare:
        """What renders its rows."""
        return Bare(chat)

    def change(self, row: Row, around: Around, draw: random.Random) -> Mapping[str, object] | None:
        return {}


class NoTemplateBegun(NoTemplate):
    """The bare question and the words of the row's own answer before its secret; none where no word comes first."""

    name: ClassVar[str] = "no_template_begun"

    def change(self, row: Row, around: Around, draw: random.Random) -> Mapping[str, object] | None:
        reply = row.reasoning or row.answer
        spans = [span for secret in row.secrets or (row.answer,) if (span := told_at(reply, secret))]
        begun = reply[: min(spans)[0]].strip() if spans else ""
        return {"prefix": begun} if begun else None
