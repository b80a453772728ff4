"""The canary of a fitted program: the model's output for retain questions, with gates held off and forced on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from exporter.fitting.context import FitContext
from exporter.fitting.selection import plain
from steer_modules.attach import steered
from steer_modules.canary import last_logits
from steer_modules.program import Canary, SteeringProgram

_TRIED, _KEPT, _TOKENS = 4, 2, 6


@dataclass(frozen=True)
class _Song:
    """A canary, and by how much its least sure token was the likeliest, in logits."""

    canary: Canary
    margin: float


def with_canary(context: FitContext, program: SteeringProgram) -> SteeringProgram:
    """The program with a canary: the most certain outputs for some retain questions without images.

    The questions are kept ones, so that a canary, which is published, tells nothing of a forget row. A program whose rows all show
    images gets none.
    """
    rows = [
        row
        for split in ("calibrate", "fit")
        for row in plain(context.rows(split, "retain", "reasoning"))
        if row.image is None
    ]
    prompts = [
        context.chat.prompt(row).ids for row in sorted(rows, key=lambda row: len(row.question))[:_TRIED]
    ]
    chosen: list[Canary] = []
    with steered(context.host.model, program) as model:
        for gate in (0, 1):
            songs = [_sung(model, prompt, gate) for prompt in prompts]
            best = sorted(songs, key=lambda song: -song.margin)[:_KEPT]
            chosen += [song.canary for song in best]
    return replace(program, canary=tuple(chosen))


def _sung(model: object, prompt: Sequence[int], gate: int) -> _Song:
    """The model's greedy output for a prompt, with every gate forced to ``gate``."""
    ids, margin = [int(token) for token in prompt], float("inf")
    for _ in range(_TOKENS):
        logits = last_logits(model, ids, gate, 1)[0]
        first, second = logits.topk(2).values.tolist()
        margin = min(margin, first - second)
        ids.append(int(logits.argmax()))
    return _Song(Canary(tuple(ids[:-1]), gate, tuple(ids[-_TOKENS:])), margin)
