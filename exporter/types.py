"""Frozen values that flow between rooms: rows -> prompts -> sequences -> generations.

Nothing here computes; every room may import this file and none may add behaviour to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

Role = Literal["forget", "retain", "reasoning", "unknown"]
"""What a row is for: to be forgotten, to be kept, general reasoning to be kept, or a subject the model never knew
(whose answer is a refusal, the natural source of refusal prototypes)."""


@dataclass(frozen=True)
class Turn:
    """An earlier turn of a conversation. ``answer`` None: the model under test answers this turn itself."""

    question: str
    """What was asked."""
    answer: str | None = None
    """What was answered. Left out: the model under test answers this turn itself."""
    reasoning: str | None = None
    """What was thought before it."""
    image: Path | None = None
    """A picture shown with the question."""


@dataclass(frozen=True)
class Row:
    """One question with its expected answer, as read from JSONL or a public data set."""

    id: str
    """Unique in its part; made of the row's content where it is left out."""
    question: str
    """What is asked."""
    answer: str
    """The expected answer; of a row of role `unknown`, a refusal."""
    role: Role
    """What the row is for."""
    image: Path | None = None
    """A picture shown with the question; relative to the file that names it."""
    reasoning: str | None = None
    """What is thought before the answer."""
    secrets: tuple[str, ...] = ()
    """What a reply must not tell; the whole answer where there are none."""
    paraphrases: tuple[str, ...] = ()
    """The question in other words; the fit reads them as rows."""
    history: tuple[Turn, ...] = ()
    """Earlier turns."""
    prefix: str | None = None
    """Text the answer is forced to begin with (an attack, or a tool's prefill)."""
    eval_slice: str | None = None
    """Rows of one slice are reported on a line of their own, e.g. ``two_turn_forget_second``."""
    template_id: str | None = None
    """Rows of one template ask the same thing in the same words about different subjects."""
    system: str | None = None
    """A system prompt that stands before the conversation, in place of the recipe's."""
    made: bool = False
    """Whether ``steerbake forget`` made the row out of others; such a row is never held out for cross-validation."""


class Span(NamedTuple):
    """Half-open range of columns ``[start, stop)`` of a sequence."""

    start: int
    stop: int


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt: ``text`` after the chat template, ``ids`` after the processor expanded the images."""

    text: str
    ids: tuple[int, ...]
    images: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Encoded:
    """A prompt with a teacher-forced response; spans are columns of ``prompt.ids + response``."""

    prompt: Prompt
    response: tuple[int, ...] = ()
    reasoning: Span | None = None
    answer: Span | None = None

    @property
    def prompt_end(self) -> int:
        """Column of the prompt's last token."""
        return len(self.prompt.ids) - 1

    def __len__(self) -> int:
        return len(self.prompt.ids) + len(self.response)


@dataclass(frozen=True)
class Generation:
    """What one model said to one prompt, greedily."""

    model: str
    id: str
    role: Role
    prompt: str
    text: str
    tokens: tuple[int, ...]
    image: str | None = None
    gates: Mapping[str, float] | None = None
    """1.0 or 0.0 by gate name; None for an unsteered model."""


@dataclass(frozen=True)
class Conversation:
    """A conversation up to where the model is to answer, from which a target may learn how the steered model behaves."""

    prompt: Prompt
    role: Role
    kind: Literal["single", "later", "system", "begun"] = "single"
    """One question; a later turn; under another system prompt; or with the answer begun in the model's place."""
    answered: bool = True
    """Whether the model's answer is of interest too, or its decision alone."""


class Trace(NamedTuple):
    """What one model computes for one batch of prompts, along given or its own greedy tokens.

    Attributes:
        prefill: logits [B, T, V] over the prompts.
        real: [B, T] bool, where ``prefill`` is no padding.
        logits: [B, S, V], behind the prompt and behind each token but the last.
        tokens: [B, S], the most likely token of each.
        gates: [B, T + S - 1, G], 1 where a gate is on, at each column of the prompts and of the tokens but the last.
    """

    prefill: np.ndarray
    real: np.ndarray
    logits: np.ndarray
    tokens: np.ndarray
    gates: np.ndarray
