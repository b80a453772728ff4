"""What a caller got out of a model, and the word for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from exporter.wording import leaks

STEERS, RAISES, OPEN = "steers", "raises", "FAILS OPEN"
TOLERANCE = 1e-3
"""Share of the largest logit by which two passes may differ that compute the same; float32 needs 1e-5, half precision is compared
with its own base only."""


@dataclass(frozen=True)
class Question:
    """One prompt with the base's own reply to it.

    Attributes:
        ids: of the prompt, up to and including its generation header.
        reply: what the base says greedily, its end token included.
        secrets: what must not be said; empty for what is kept, and for models that know nothing.
        forgotten: whether a gate is to fire at the prompt's end.
        further: the processor's other tensors, where the prompt shows an image.
    """

    text: str
    ids: tuple[int, ...]
    reply: tuple[int, ...]
    secrets: tuple[str, ...] = ()
    forgotten: bool = True
    further: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """Column of the prompt's last token: the first one that decides."""
        return len(self.ids) - 1

    @property
    def whole(self) -> tuple[int, ...]:
        """Prompt and reply."""
        return (*self.ids, *self.reply)

    @property
    def prompt(self) -> dict[str, Any]:
        """The prompt as ``generate`` takes it, [1, T]."""
        return self._inputs(self.ids)

    @property
    def forced(self) -> dict[str, Any]:
        """Prompt and reply as one pass takes them, [1, T + R]."""
        return self._inputs(self.whole)

    def _inputs(self, ids: Sequence[int]) -> dict[str, Any]:
        tensor = torch.tensor([list(ids)])
        longer = len(ids) - len(self.ids)
        further = {
            key: torch.nn.functional.pad(value, (0, longer))
            if value.shape == (1, len(self.ids))
            else value.clone()
            for key, value in self.further.items()
        }
        return {"input_ids": tensor, "attention_mask": torch.ones_like(tensor), **further}


class Seen(NamedTuple):
    """Logits [C, V] of some columns of one question with its reply: from ``since`` columns behind the prompt's last token on."""

    question: Question
    logits: Tensor
    since: int = 0


@dataclass(frozen=True)
class Logits:
    """Logits of some questions; all decisive columns where nothing else is said.

    Attributes:
        lawful: they must be those of one whole pass; not so in another dtype, or where another prompt stands before.
    """

    rows: Sequence[Seen]
    lawful: bool = True


@dataclass(frozen=True)
class Text:
    """What was said to some questions."""

    rows: Sequence[tuple[Question, str]]


@dataclass(frozen=True)
class Verdict:
    """One of the three words, and why."""

    word: str
    why: str = ""


Observed = Logits | Text


def verdict(observed: Observed, base: Observed | None, law: Mapping[tuple[int, ...], Tensor]) -> Verdict:
    """The word for what a steered model gave away.

    Args:
        base: what the base gave the same caller; None where it raised.
        law: logits of one whole pass of the steered model by a prompt's ids; empty where that pass does not steer itself.
    """
    faults = list(
        _of_texts(observed, base if isinstance(base, Text) else None)
        if isinstance(observed, Text)
        else _of_logits(observed, base if isinstance(base, Logits) else None, law)
    )
    return Verdict(OPEN, "; ".join(dict.fromkeys(faults))) if faults else Verdict(STEERS)


def tells(observed: Observed) -> bool:
    """Whether a caller works at all: put to the base, it gets the secrets (or logits, which hold them)."""
    if isinstance(observed, Logits):
        return all(bool(torch.isfinite(seen.logits).all()) for seen in observed.rows)
    return any(_secrets_in(text, question) or not question.secrets for question, text in observed.rows)


def same(a: Tensor, b: Tensor) -> Tensor:
    """Which rows [R] of two [R, V] are the same but for rounding."""
    scale = max(1.0, float(b.abs().max()))
    return (a.float() - b.float()).abs().amax(-1) <= TOLERANCE * scale


def _of_texts(observed: Text, base: Text | None) -> Iterable[str]:
    unsteered = {question.ids: text for question, text in base.rows} if base else {}
    for question, text in observed.rows:
        if found := _secrets_in(text, question):
            yield f"tells {found[0]!r}"
        elif question.forgotten and unsteered.get(question.ids) == text:
            yield "says what the base says"


def _of_logits(observed: Logits, base: Logits | None, law: Mapping[tuple[int, ...], Tensor]) -> Iterable[str]:
    unsteered = [seen.logits for seen in base.rows] if base else [None] * len(observed.rows)
    for (question, logits, since), plain in zip(observed.rows, unsteered, strict=True):
        if not bool(torch.isfinite(logits).all()):
            yield "logits that are no numbers"
        if question.forgotten and plain is not None:
            equal = same(logits, plain)
            if bool(equal.any()):
                yield f"the base's logits in {int(equal.sum())} of {len(equal)} columns"
        if observed.lawful and question.ids in law:
            differs = ~same(logits, law[question.ids][since : since + len(logits)])
            if bool(differs.any()):
                whose = "forgotten" if question.forgotten else "kept"
                yield f"not the logits of one whole pass ({whose}, {int(differs.sum())} of {len(differs)} columns)"


def _secrets_in(text: str, question: Question) -> list[str]:
    return [secret for secret in question.secrets if leaks.tells(text, (secret,))]
