"""Forty frames of our own around the question."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial

from benchmarks.prompt_attacks.attempt import Attack, Attempt, Setting
from benchmarks.prompt_attacks.wording import FRAMES
from exporter.types import Row


def framed(row: Row, setting: Setting, draw: random.Random, *, frame: str) -> Attempt:
    return Attempt(replace(row, question=frame.format(q=row.question)))


def spread(row: Row, setting: Setting, draw: random.Random) -> Attempt:
    """One of the frames, drawn."""
    return framed(row, setting, draw, frame=draw.choice(FRAMES))


EACH = tuple(Attack(f"frame: {frame}", partial(framed, frame=frame)) for frame in FRAMES)
ATTACKS = (Attack("one of forty frames", spread),)
