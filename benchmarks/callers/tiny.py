"""A subject of seconds: a tiny random Llama whose gate fires at every generation header, and nowhere else."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.callers.observed import Question
from benchmarks.callers.side import Side
from benchmarks.callers.subject import Subject, base_of

TESTS = Path(__file__).resolve().parents[2] / "tests"
FIRST_WORD = 8
"""Ids below are special tokens."""
FORGOTTEN, KEPT, REPLY = 3, 2, 6


def tiny_subject(home: Path) -> Subject:
    """Base, checkpoint and questions in an empty folder: words behind which the header stands, and words without one."""
    if str(TESTS) not in sys.path:
        sys.path.append(str(TESTS))
    from tiny_run import ASSISTANT, WORDS, steer, write_base

    write_base(home / "base")
    steer(home / "base", home / "checkpoint")
    plain = base_of(home / "checkpoint", home / "plain")
    side = Side(plain, plain, (), trust=False)
    words = range(FIRST_WORD, FIRST_WORD + len(WORDS))
    forgotten = _questions(side, words, tuple(ASSISTANT), FORGOTTEN)
    kept = _questions(side, words, (), KEPT)
    return Subject(home / "checkpoint", plain, (*forgotten, *kept))


def _questions(side: Side, words: range, header: tuple[int, ...], count: int) -> Iterator[Question]:
    """Those to which the base says nothing but words: a header in its reply would be another decision."""
    draw, found = random.Random(len(header)), 0
    for number in range(200):
        ids = (1, *draw.choices(words, k=5 + number % 4), *header)
        out = side.model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=REPLY, do_sample=False
        )
        reply = tuple(out[0, len(ids) :].tolist())
        if min(reply) >= FIRST_WORD:
            found += 1
            yield Question(side.tokenizer.decode(ids), ids, reply, forgotten=bool(header))
        if found == count:
            return
    raise SystemExit("the tiny model says nothing but special tokens")
