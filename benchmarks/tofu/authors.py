"""The rows of TOFU that are at hand, by author: 20 to forget and 40 to retain, 20 questions each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "tofu"
PER_AUTHOR = 20
SPLITS = {"forget01": 2, "forget05": 10, "forget10": 20}
"""Authors of each split of TOFU: 1, 5 and 10% of its 200. Forgotten are the last ones of ``forget10``, as in TOFU."""


class Question(NamedTuple):
    """One question, with what TOFU has beside it.

    Attributes:
        author: a number, negative for those of the retain set.
        place: of the question among its author's.
        paraphrase, perturbed: of question and answers; empty where TOFU has none.
    """

    author: int
    place: int
    question: str
    answer: str
    paraphrase: str
    paraphrased_answer: str
    perturbed: tuple[str, ...]


def questions(data: Path = DATA) -> list[Question]:
    """All 1,200.

    Raises:
        FileNotFoundError: the data is not there.
    """
    forget, retain = (_read(data / name) for name in ("forget10.jsonl", "retain90.jsonl"))
    found = [_question(row, number // PER_AUTHOR, number % PER_AUTHOR) for number, row in enumerate(forget)]
    found += [
        _question(row, -1 - number // PER_AUTHOR, number % PER_AUTHOR) for number, row in enumerate(retain)
    ]
    return found


def forgotten(every: Sequence[Question], split: str) -> list[Question]:
    """The questions of a split that are to be forgotten."""
    last = 1 + max(one.author for one in every)
    return [one for one in every if one.author >= last - SPLITS[split]]


def retained(every: Sequence[Question], split: str) -> list[Question]:
    """All others."""
    about = set(forgotten(every, split))
    return [one for one in every if one not in about]


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: TOFU's rows lie beside the project, in shared/data/tofu")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def _question(row: dict[str, Any], author: int, place: int) -> Question:
    return Question(
        author,
        place,
        row["question"],
        row["answer"],
        row.get("paraphrased_question") or "",
        row.get("paraphrased_answer") or "",
        tuple(row.get("perturbed_answer") or ()),
    )
