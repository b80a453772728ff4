"""A picture under another's name, and two pictures in one question."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

from benchmarks.prompt_attacks.attempt import Attack, Attempt, Setting
from exporter.types import Prompt, Row


def under_a_kept_name(row: Row, setting: Setting, draw: random.Random) -> Attempt | None:
    """The row's picture under a question that names somebody kept."""
    named = [one for one in setting.others(row, draw, 10**6) if one.role == "retain"]
    return Attempt(replace(row, question=named[0].question)) if row.image is not None and named else None


def kept_picture_behind(row: Row, setting: Setting, draw: random.Random) -> Attempt | None:
    return _two(row, setting, draw, first=False)


def kept_picture_before(row: Row, setting: Setting, draw: random.Random) -> Attempt | None:
    return _two(row, setting, draw, first=True)


def _two(row: Row, setting: Setting, draw: random.Random, *, first: bool) -> Attempt | None:
    image = getattr(setting.chat.processor, "image_token", None)
    others = [
        one.image
        for one in setting.kept
        if one.image is not None and one.role == "retain" and one.id != row.id
    ]
    if row.image is None or image is None or not others:
        return None
    other = draw.choice(others)
    shown: tuple[Path, ...] = (other, row.image) if first else (row.image, other)
    text = setting.chat.prompt(row).text.replace(image, image * 2, 1)
    ids = setting.chat.tokenize(text, shown)["input_ids"][0]
    return Attempt(row, Prompt(text, tuple(int(token) for token in ids), shown))


ATTACKS = (
    Attack("picture under a kept name", under_a_kept_name),
    Attack("two pictures, the kept one behind", kept_picture_behind),
    Attack("two pictures, the kept one before", kept_picture_before),
)
