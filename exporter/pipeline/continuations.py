"""How a model goes on from the beginning of a name, outside of any conversation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from exporter.host import ModelHost
from exporter.types import Prompt

LEAD = "I read about"
NEXT, WORDS = 12, 7
"""Tokens that are tried after each beginning, and tokens that are said after each of those."""


class Continuations:
    """Texts that a model finds likeliest behind a beginning."""

    def __init__(self, host: ModelHost) -> None:
        self.host = host

    def pieces(self, name: str) -> list[str]:
        """A name as the tokenizer cuts it within a sentence; joined and stripped they are the name."""
        lead, ids = self._ids(LEAD), self._ids(f"{LEAD} {name}")
        texts = [self._text(ids[:count]) for count in range(len(lead), len(ids) + 1)]
        return [text[len(before) :] for before, text in pairwise(texts)]

    def __call__(self, beginnings: Sequence[str]) -> list[list[str]]:
        """What may come after each beginning, likeliest first."""
        return [self._after(beginning) for beginning in beginnings]

    @torch.no_grad()
    def _after(self, beginning: str) -> list[str]:
        ids = self._ids(f"{LEAD} {beginning}")
        seen = torch.tensor([ids], device=self.host.device)
        likeliest = self.host.model(input_ids=seen).logits[0, -1].topk(NEXT).indices.tolist()
        prompts = [Prompt(self._text([*ids, one]), (*ids, one)) for one in likeliest]
        said = self.host.generate(prompts, max_new_tokens=WORDS)
        begun = len(self._text(ids))
        return [
            self._text([*ids, one, *more.tokens])[begun:] for one, more in zip(likeliest, said, strict=True)
        ]

    def _ids(self, text: str) -> list[int]:
        return list(self.host.tokenizer(text)["input_ids"])

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.host.tokenizer.decode(list(ids), skip_special_tokens=True))
