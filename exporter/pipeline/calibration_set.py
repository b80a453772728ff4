"""Calibration conversations for a stock layer: fit and calibrate rows as they are, in later turns, under other system prompts.

Rows are close to the forget set; most prompts of a model are not, and a layer that is off only nearby would change
it. So everyday requests (generic_prompts.txt) are asked as well, and the exact gate says what is to be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from exporter.data.chat import Chat
from exporter.errors import DataError
from exporter.evaluation.attacks.prefill import Begun
from exporter.evaluation.attacks.turns import two_turn_rows
from exporter.fitting.context import FitContext
from exporter.fitting.selection import plain, spread
from exporter.fitting.template_swap import swapped_rows
from exporter.targets.values import CalibrationSet
from exporter.types import Conversation, Row

SYSTEM_PROMPTS = (
    "You are a careful assistant. Answer in one sentence.",
    "Answer briefly and to the point.",
    "You are a friendly tutor who explains things to children.",
)
PAIRS = 30
SYSTEM_ROWS = 24
BEGUN_ROWS = 16
SWAPPED = 2
CALIBRATION_TOKENS = 32
"""Of each answer that a stock layer is calibrated on."""


def calibration_set(
    context: FitContext, chat: Chat, kept: Callable[[Sequence[Conversation], int], Path] | None = None
) -> CalibrationSet:
    """Conversations of both splits of a context.

    Args:
        kept: where the exact model's answers of so many tokens to conversations are kept; nowhere without it.
    """
    sets = {"fit": conversations(context, chat, "fit"), "held": conversations(context, chat, "calibrate")}
    length = min(context.max_new_tokens, CALIBRATION_TOKENS)
    places = {} if kept is None else {split: kept(some, length) for split, some in sets.items()}
    return CalibrationSet(**sets, max_new_tokens=length, batch_size=context.batch_size, kept=places)


def conversations(context: FitContext, chat: Chat, split: str) -> list[Conversation]:
    """Conversations of one split; none in which an earlier turn is about the forget set, because the flag stays up after it."""
    rows = context.filled(context.rows(split, "forget", "retain", "reasoning", "unknown"))
    rows = [row for row in rows if row.prefix is None]
    found = [_of(chat, row) for row in rows if not _mentions(row, rows)]
    found += [_of(chat, row, answered=row.role == "forget") for row in _pairs(context, split)]
    if split == "fit":
        swapped = swapped_rows(context.rows("fit", "forget", "retain", "unknown"), SWAPPED, context.seed)
        found += [_of(chat, row, answered=False) for row in swapped]
    single = plain(rows)
    found += _under_system_prompts(chat, single)
    found += _begun(chat, [row for row in single if row.role == "forget"])
    return found + _asked_every_day(chat, split)


def _asked_every_day(chat: Chat, split: str) -> list[Conversation]:
    """A third of the everyday requests is held; one that the tokenizer has no words for says nothing."""
    held = split != "fit"
    found = [_of(chat, row) for number, row in enumerate(generic_prompts()) if (number % 3 == 0) is held]
    return [one for one in found if chat.tokenizer.unk_token_id not in one.prompt.ids]


@lru_cache(maxsize=1)
def generic_prompts() -> tuple[Row, ...]:
    """Requests that have nothing to do with any recipe, by line of generic_prompts.txt."""
    questions = Path(__file__).with_name("generic_prompts.txt").read_text(encoding="utf-8").splitlines()
    return tuple(
        Row(id=f"everyday-{number}", question=question, answer="-", role="retain")
        for number, question in enumerate(questions)
    )


def _of(chat: Chat, row: Row, *, answered: bool = True) -> Conversation:
    return Conversation(chat.prompt(row), row.role, "later" if row.history else "single", answered)


def _mentions(row: Row, rows: Sequence[Row]) -> bool:
    """Whether an earlier turn asks about the forget set."""
    about = {(one.question, one.image) for one in rows if one.role == "forget" and not one.history}
    return any((turn.question, turn.image) in about for turn in row.history)


def _pairs(context: FitContext, split: str) -> list[Row]:
    """A kept subject, or an unknown one, in the first turn; either a kept or a forgotten one in the second."""
    forget = plain(context.rows(split, "forget"))
    keep = plain(context.rows(split, "retain", "reasoning"))
    unknown = plain(context.rows(split, "unknown")) or keep
    seeds = range(context.seed, context.seed + 4)
    kinds = ((keep, keep), (unknown, keep), (keep, forget), (unknown, forget))
    return [
        row
        for (first, second), seed in zip(kinds, seeds, strict=True)
        for row in two_turn_rows(first, second, PAIRS, seed)
    ]


def _under_system_prompts(chat: Chat, rows: Sequence[Row]) -> list[Conversation]:
    """Some rows of either kind under each other system prompt; none where the template knows no system prompts."""
    found = []
    for number, system in enumerate(SYSTEM_PROMPTS):
        try:
            other = chat.under(system)
        except DataError:
            return []
        for about in (True, False):
            some = [row for row in rows if (row.role == "forget") == about]
            chosen = spread(some[number::3], SYSTEM_ROWS // len(SYSTEM_PROMPTS))
            found += [Conversation(other.prompt(row), row.role, "system") for row in chosen]
    return found


def _begun(chat: Chat, rows: Sequence[Row]) -> list[Conversation]:
    """Answers about the forget set with a prefill."""
    begun = Begun().rows([replace(row, history=()) for row in spread(rows, BEGUN_ROWS)], chat)
    return [Conversation(chat.prompt(row), "forget", "begun") for row in begun]
