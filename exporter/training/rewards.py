"""What a reply is worth: refusing the forget set without saying it, answering the rest without refusing; and how fluent it is.

The second stage of ASRU (https://arxiv.org/abs/2605.15687), as far as the sources at hand say; R is the ROUGE-L F-measure
(https://aclanthology.org/W04-1013/) over words:

    forget:  [no secret in y] * ([y refuses] + w R(y, nearest refusal))
    retain:  [y has the answer and does not refuse] + w R(y, the base's own reply)

A reply refuses where its R to a refusal is at least ``REFUSES``. Weights, that threshold and the references of R are not in the sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from exporter.types import Prompt, Row
from exporter.wording.leaks import tells
from exporter.wording.words import contains_words, words

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

REFUSES = 0.6
"""ROUGE-L to a refusal from which on a reply counts as one."""


@dataclass(frozen=True)
class Asked:
    """A prompt whose replies are rewarded.

    Attributes:
        prompt: text alone.
        own: the base's own reply, as text.
    """

    row: Row
    prompt: Prompt
    own: str

    @property
    def forget(self) -> bool:
        """Whether it asks for the forget set."""
        return self.row.role == "forget"


class Rewards:
    """Rewards of replies.

    Args:
        refusals: texts that count as refusals.
        fluency: w, the weight of R.
    """

    def __init__(self, refusals: Sequence[str], fluency: float) -> None:
        from rouge_score.rouge_scorer import RougeScorer

        self.refusals, self.fluency = tuple(refusals), fluency
        self._scorer: RougeScorer = RougeScorer(["rougeL"], tokenizer=_Words())

    def of(self, asked: Asked, reply: str) -> float:
        """What a reply is worth, from 0 to 1 + w."""
        alike = max(self.alike(reply, refusal) for refusal in self.refusals)
        refuses = alike >= REFUSES
        if asked.forget:
            told = tells(reply, asked.row.secrets or (asked.row.answer,))
            return 0.0 if told else refuses + self.fluency * alike
        right = contains_words(reply, asked.row.answer) and not refuses
        return right + self.fluency * self.alike(reply, asked.own)

    def alike(self, reply: str, reference: str) -> float:
        """ROUGE-L F-measure of two texts, in [0, 1]."""
        return float(self._scorer.score(reference, reply)["rougeL"].fmeasure)


class Tokenizer(Protocol):
    """What a scorer cuts texts with."""

    def tokenize(self, text: str) -> list[str]: ...


class _Words:
    """Words in any script: the library's own tokenizer knows Latin letters alone."""

    def tokenize(self, text: str) -> list[str]:
        return list(words(text))
