"""Natural refusals: the model's states while it refuses by itself.

A refusal forced on a subject the model knows is not one: there the model means to say something else, and turning states
towards such prototypes breaks the text. So every position is tested: where the model's argmax is not the refusal's next
token for most of the natural prompts, the position's prototype is refused.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from exporter.errors import DataError, FitError
from exporter.evaluation.attacks.turns import as_turn
from exporter.fitting.context import FitContext
from exporter.fitting.pooling import PooledSequence
from exporter.fitting.selection import spread
from exporter.types import Encoded, Prompt, Row

Source = Literal["auto", "unknown", "few_shot"]


@dataclass(frozen=True)
class Wording:
    """One refusal: its response ids (end token included) and its texts."""

    response: tuple[int, ...]
    reasoning: str | None
    answer: str


@dataclass(frozen=True)
class NaturalRefusal:
    """A wording with the states of natural refusals.

    Attributes:
        states: by layer, float32 [T,d]; row t is the mean state that makes the model say ``wording.response[t]``.
        agreement: share of natural prompts whose argmax is that token, T values in [0, 1].
        kept: whether the position's prototype may be used, T values.
    """

    wording: Wording
    source: str
    states: dict[int, Tensor]
    agreement: tuple[float, ...]
    kept: tuple[bool, ...]

    @property
    def whole(self) -> bool:
        return all(self.kept)


def wordings(context: FitContext) -> list[Wording]:
    """The distinct answers of the fit rows of role unknown, most frequent first."""
    rows = context.need("fit", "unknown")
    texts = Counter((row.reasoning, row.answer) for row in rows)
    first = {(row.reasoning, row.answer): row for row in reversed(rows)}
    found = []
    for text, _ in texts.most_common():
        row = replace(first[text], history=(), prefix=None)
        found.append(Wording(context.chat.encode(row).response, *text))
    return found


def natural_refusals(
    context: FitContext,
    chosen: Sequence[Wording],
    layers: Sequence[int],
    *,
    source: Source = "auto",
    rows: int = 64,
    shots: int = 4,
    least_agreement: float = 0.5,
) -> list[NaturalRefusal]:
    """States of natural refusals in each wording, the unagreed positions marked.

    Args:
        source: "unknown" asks about unknown subjects; "few_shot" puts ``shots`` refused questions before each question;
            "auto" takes the second where the first leaves no wording whole.
        rows: natural prompts per wording.
        least_agreement: share of prompts that must agree with a token for its prototype to be used.

    Raises:
        FitError: no wording is agreed with at every position; the message lists the positions.
    """
    tried: list[NaturalRefusal] = []
    for way in ("unknown", "few_shot") if source == "auto" else (source,):
        found = [_natural(context, one, layers, way, rows, shots, least_agreement) for one in chosen]
        for refusal in found:
            context.record(
                "refusals",
                answer=refusal.wording.answer,
                source=way,
                agreement=[round(value, 3) for value in refusal.agreement],
                refused=[t for t, kept in enumerate(refusal.kept) if not kept],
            )
        if any(refusal.whole for refusal in found):
            return found
        tried += found
    lines = [
        f"{refusal.source}: {refusal.wording.answer!r} disagrees at positions "
        + ", ".join(f"{t} ({share:.2f})" for t, share in enumerate(refusal.agreement) if not refusal.kept[t])
        for refusal in tried
    ]
    raise FitError(
        "the model refuses in none of the wordings, so no refusal can be copied from it. Give unknown rows in the model's own words, or "
        "raise `shots`.\n" + "\n".join(lines)
    )


def natural_replies(
    context: FitContext, refusals: Sequence[NaturalRefusal], *, rows: int = 64, shots: int = 4
) -> list[Encoded]:
    """The replies that natural refusals were found on, with their spans, those of every wording in turn.

    Args:
        rows, shots: as :func:`natural_refusals` had them.
    """
    found = [
        [
            context.chat.encode(row, answer=one.wording.answer, reasoning=one.wording.reasoning or "")
            for row in natural_rows(context, one.wording, one.source, rows, shots)
        ]
        for one in refusals
        if one.whole
    ]
    return [reply for replies in zip(*found, strict=True) for reply in replies]


def said_states(refusals: Sequence[NaturalRefusal], layer: int) -> Tensor:
    """Every state [m,d] of natural refusals from which the model says the next token by itself."""
    return torch.cat([one.states[layer][[t for t, kept in enumerate(one.kept) if kept]] for one in refusals])


def forced(prompt: Prompt, response: Sequence[int]) -> PooledSequence:
    """A response forced on a prompt, with one pool per state that predicts a response token."""
    sequence = Encoded(prompt, tuple(response))
    return PooledSequence(sequence, tuple((sequence.prompt_end + t,) for t in range(len(response))))


def _natural(
    context: FitContext,
    wording: Wording,
    layers: Sequence[int],
    way: str,
    rows: int,
    shots: int,
    least: float,
) -> NaturalRefusal:
    asked = natural_rows(context, wording, way, rows, shots)
    items = [forced(context.chat.prompt(row), wording.response) for row in asked]
    found = context.collect(items, layers, f"natural refusals ({way})")
    length = len(wording.response)
    agrees = found.agrees.reshape(len(items), length) == 1
    share = agrees.float().mean(0)
    kept = share >= least
    states = {}
    for layer in layers:
        each = found.at(layer).reshape(len(items), length, -1)
        mask = agrees.float().unsqueeze(-1)
        states[layer] = (each * mask).sum(0) / mask.sum(0).clamp_min(1.0)
    return NaturalRefusal(wording, way, states, tuple(share.tolist()), tuple(kept.tolist()))


def natural_rows(context: FitContext, wording: Wording, way: str, rows: int, shots: int) -> list[Row]:
    """Rows to which the model should answer with the wording: unknown subjects, or questions after refused ones."""
    if way == "unknown":
        unknown = context.need("fit", "unknown")
        by_picture = [[row for row in unknown if (row.image is not None) is seen] for seen in (True, False)]
        sides = [side for side in by_picture if side]
        return context.filled([row for side in sides for row in spread(side, max(rows // len(sides), 1))])
    asked = [row for row in context.need("fit", "forget") if not row.history and row.prefix is None]
    if len(asked) < shots + 1:
        raise DataError(
            f"few-shot refusals need at least {shots + 1} plain forget rows, the fit rows contain {len(asked)}"
        )
    few = []
    draw = random.Random(context.seed)
    for row in spread(asked, rows):
        before = draw.sample([other for other in asked if other.id != row.id], shots)
        turns = tuple(as_turn(one, (wording.reasoning, wording.answer)) for one in before)
        few.append(replace(row, history=turns))
    return few
