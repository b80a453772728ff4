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
"""The set of a row: forget set, retain set, general reasoning (also retained), or a subject that the model does not know
(whose answer is a refusal, the natural source of refusal prototypes)."""


@dataclass(frozen=True)
class Turn:
    """An earlier turn of a conversation. ``answer`` None: the model under test answers this turn itself."""

    question: str
    """What was asked."""
    answer: str | None = None
    """The answer. If omitted, the model under test answers this turn itself."""
    reasoning: str | None = None
    """The reasoning before the answer."""
    image: Path | None = None
    """A picture shown with the question."""


@dataclass(frozen=True)
class Row:
    """One question with its expected answer, as read from JSONL or a public data set."""

    id: str
    """Unique in its part; by default derived from the row's content."""
    question: str
    """The question."""
    answer: str
    """The expected answer; of a row of role `unknown`, a refusal."""
    role: Role
    """The set of the row; see the glossary in docs/architecture.md."""
    image: Path | None = None
    """A picture shown with the question; relative to the file that names it."""
    reasoning: str | None = None
    """The reasoning before the answer."""
    secrets: tuple[str, ...] = ()
    """Words that a reply must not contain; the whole answer if there are none."""
    paraphrases: tuple[str, ...] = ()
    """The question in other words; the fit uses them as further rows."""
    history: tuple[Turn, ...] = ()
    """Earlier turns."""
    prefix: str | None = None
    """Prefill: the beginning of the response, which the model continues."""
    eval_slice: str | None = None
    """Rows of one slice are reported separately, e.g. ``two_turn_forget_second``."""
    template_id: str | None = None
    """Rows of one template ask the same question in the same words about different subjects."""
    system: str | None = None
    """System prompt of the conversation, instead of the recipe's."""
    options: tuple[str, ...] = ()
    """Answers to choose from, in the order in which the question names them A, B, C ...; ``answer`` is one of those letters."""
    paraphrased_answers: tuple[str, ...] = ()
    """The answer in other words, for the truth ratio of `steerbake evaluate`."""
    perturbed_answers: tuple[str, ...] = ()
    """Wrong answers in the words of the right one, for the truth ratio of `steerbake evaluate`."""
    derived_secrets: tuple[str, ...] = ()
    """Words from which a secret follows, as a city betrays its country; in a reasoning they are an implicit leak (`steerbake evaluate`, `verify`)."""
    made: bool = False
    """Whether ``steerbake forget`` generated the row from others; such a row is never held out for cross-validation."""


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
    """One question; a later turn; under another system prompt; or with a prefill."""
    answered: bool = True
    """Whether the model's answer matters too, or only its decision."""


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
