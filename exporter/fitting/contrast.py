"""Differences between what a model should say and what it says, pooled over the spans of reasoning and answer.

phi(x; S) is the mean state over the tokens of span S (R-MUSE, arXiv 2512.17911). For every row, one difference per span:
refusal minus own reply for rows to forget, reasoning before the answer minus the bare answer for rows to keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from exporter.errors import FitError
from exporter.fitting.context import FitContext
from exporter.fitting.pooling import PooledSequence
from exporter.fitting.refusals import Wording
from exporter.fitting.subspaces import z_score
from exporter.types import Encoded, Row, Span

Negatives = Literal["own", "rows"]
Spans = Literal["both", "answer", "reasoning"]
Pooling = Literal["means", "openings"]
"""Which states stand for a span: the mean over its tokens, or the one from which it begins.

An answer begins behind the token before it, a reasoning at the end of the prompt, where the model decides how to reply.
"""


@dataclass(frozen=True)
class Contrast:
    """Pooled differences of one layer, row by row.

    Attributes:
        answer: positive minus negative over the answer span, [n,d].
        reasoning: the same over the reasoning span, [n,d]; None where replies have none.
        positive: mean state of the positive's whole response, [n,d].
    """

    answer: Tensor
    reasoning: Tensor | None
    positive: Tensor

    def hybrid(self, *, centred: bool, spans: Spans = "both") -> Tensor:
        """Z(D_ans) + Z(D_cot), [n,d]: the span-hybrid differences; or of one span alone.

        Raises:
            FitError: of the reasoning alone, where replies have none.
        """
        if spans == "reasoning" and self.reasoning is None:
            raise FitError(
                "the replies have no reasoning, so `spans` cannot be reasoning; set it to answer or both"
            )
        parts = {"answer": self.answer, "reasoning": self.reasoning}
        chosen = [one for name, one in parts.items() if spans in ("both", name) and one is not None]
        found = z_score(chosen[0], centred=centred)
        return found if len(chosen) == 1 else found + z_score(chosen[1], centred=centred)

    @property
    def mean(self) -> Tensor:
        """Mean difference [d] over both spans: the direction from the memory to the refusal."""
        shift = self.answer.mean(0)
        return shift if self.reasoning is None else shift + self.reasoning.mean(0)


def forget_contrast(
    context: FitContext,
    rows: Sequence[Row],
    refusals: Sequence[Wording],
    layers: Sequence[int],
    *,
    positives: Sequence[Encoded] = (),
    negatives: Negatives = "own",
    pooling: Pooling = "means",
    prefix: str = "",
) -> dict[int, Contrast]:
    """By layer: the ideal refusal minus the model's reply, for rows to forget.

    Args:
        positives: refusals that the model says by itself, spread over the rows (:func:`exporter.fitting.refusals.natural_replies`);
            without any, refusals are forced on the rows' own questions, which the model would answer.
        negatives: "own", the model's greedy replies; "rows", the texts of the rows.
        prefix: words before the question of the positive (the paper's guidance g).

    Raises:
        FitError: no reply has an answer.
    """
    replies = _replies(context, rows, negatives)
    said = (
        [positives[number * len(positives) // len(rows)] for number in range(len(rows))]
        if positives
        else _forced(context, rows, refusals, prefix)
    )
    pairs = list(zip(said, replies, strict=True))
    return _differences(context, pairs, layers, "refusal minus memory", pooling)


def retain_contrast(context: FitContext, rows: Sequence[Row], layers: Sequence[int]) -> dict[int, Contrast]:
    """By layer: reasoning before the answer minus the answer alone, for rows to keep.

    Where a model does not reason, its answer is compared to the end of the prompt instead.
    """
    pairs = []
    reasoned = [row for row in rows if row.reasoning]
    for row in reasoned or rows:
        whole = context.chat.encode(row)
        first = whole.prompt_end + 1
        if row.reasoning:
            bare = context.chat.encode(row, reasoning="")
            assert bare.answer is not None
            pairs.append(
                (
                    replace(whole, answer=Span(first, len(whole)), reasoning=None),
                    replace(bare, reasoning=None),
                )
            )
        else:
            prompt = Encoded(whole.prompt, answer=Span(whole.prompt_end, whole.prompt_end + 1))
            pairs.append((replace(whole, reasoning=None), prompt))
    return _differences(context, pairs, layers, "reasoning minus bare answer")


def _forced(
    context: FitContext, rows: Sequence[Row], refusals: Sequence[Wording], prefix: str
) -> list[Encoded]:
    found = []
    for number, row in enumerate(rows):
        wording = refusals[number % len(refusals)]
        asked = replace(row, question=f"{prefix} {row.question}".strip())
        found.append(context.chat.encode(asked, answer=wording.answer, reasoning=wording.reasoning or ""))
    return found


def _replies(context: FitContext, rows: Sequence[Row], negatives: Negatives) -> list[Encoded]:
    if negatives == "rows":
        return [context.chat.encode(row) for row in rows]
    prompts = [context.chat.prompt(row) for row in rows]
    said = context.own(prompts)
    return [context.chat.continue_with(p, one.tokens) for p, one in zip(prompts, said, strict=True)]


def _differences(
    context: FitContext,
    pairs: Sequence[tuple[Encoded, Encoded]],
    layers: Sequence[int],
    title: str,
    pooling: Pooling = "means",
) -> dict[int, Contrast]:
    whole = [(a, b) for a, b in pairs if a.answer is not None and b.answer is not None]
    if not whole:
        raise FitError(
            f"{title}: no reply contains a complete answer; allow more new tokens, or take negatives from the rows"
        )
    thinks = all(a.reasoning is not None and b.reasoning is not None for a, b in whole)
    items = [_pooled(one, thinks, pooling) for pair in whole for one in pair]
    found = context.collect(items, layers, title)
    contrasts = {}
    for layer in layers:
        states = found.at(layer).reshape(len(whole), 2, 3 if thinks else 2, -1)
        shift = states[:, 0] - states[:, 1]
        contrasts[layer] = Contrast(shift[:, 1], shift[:, 2] if thinks else None, states[:, 0, 0])
    return contrasts


def _pooled(sequence: Encoded, thinks: bool, pooling: Pooling) -> PooledSequence:
    """Pools: the whole response (the last prompt column where there is none), the answer, the reasoning."""
    assert sequence.answer is not None
    first = min(sequence.prompt_end + 1, len(sequence) - 1)
    opens = pooling == "openings"
    answer = (sequence.answer.start - 1,) if opens else tuple(range(*sequence.answer))
    pools = [tuple(range(first, len(sequence))), answer]
    if thinks:
        assert sequence.reasoning is not None
        pools.append((sequence.prompt_end,) if opens else tuple(range(*sequence.reasoning)))
    return PooledSequence(sequence, tuple(pools))
