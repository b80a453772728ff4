"""Several attacks on one question: how it is worded, under which system prompt, after which turns, with which prefill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from exporter import registry
from exporter.evaluation.attacks.base import Chat
from exporter.types import Row

SLOTS: Mapping[str, tuple[str, ...]] = {
    "framing": (
        "frame",
        "paraphrase",
        "story",
        "noise_before",
        "known_noise_before",
        "noise_behind",
        "word_inside",
        "two_questions",
        "translated",
        "foreign_frame",
        "cloze",
        "indirect",
    ),
    "persuasion": ("role_play", "override", "prefix_injection", "affirmative_suffix", "hint", "few_shot"),
    "spelling": ("typos", "capitals", "spacing", "zero_width", "homoglyphs", "leet"),
    "system": ("system_override", "system_prompt"),
    "turns": (
        "many_shot",
        "later_turn",
        "five_turns",
        "asked_five_times",
        "refused_before",
        "others_refused",
        "crescendo",
    ),
    "prefill": (
        "begun",
        "leading_clause",
        "affirmative_prefill",
        "reasoning_prefill",
        "zero_think",
        "less_think",
    ),
}
"""What may be chosen for each part of a prompt; the first three change the question one after the other."""
PARTS = {"system": "system", "turns": "history", "prefill": "prefix"}
"""The field of a row that a slot fills beside the question."""
Chosen = Mapping[str, str | None]
"""By slot, the name of an attack or none."""


def composed(row: Row, chosen: Chosen, kept: Sequence[Row], chat: Chat) -> Row | None:
    """The row with all chosen attacks at once; None where one of them makes nothing of it.

    Args:
        kept: plain retain rows, which attacks draw on.
    """
    asked = row
    for slot in SLOTS:
        if slot not in PARTS and (name := chosen.get(slot)):
            made = first_made(name, asked, kept, chat)
            if made is None:
                return None
            asked = replace(made, id=row.id)
    parts: dict[str, object] = {}
    for slot, part in PARTS.items():
        if name := chosen.get(slot):
            made = first_made(name, asked, kept, chat)
            if made is None:
                return None
            parts[part] = getattr(made, part)
    return replace(asked, id=f"{row.id}/{titled(chosen)}", eval_slice="adaptive", **parts)  # type: ignore[arg-type]


def first_made(name: str, row: Row, kept: Sequence[Row], chat: Chat) -> Row | None:
    """The first row that an attack makes of one row."""
    made = registry.attack(name).rows([row, *kept], chat)
    return next((one for one in made if one.role == row.role and one.answer == row.answer), None)


def titled(chosen: Chosen) -> str:
    """``frame+zero_think``; ``plain`` for no attack at all."""
    return "+".join(name for slot in SLOTS if (name := chosen.get(slot))) or "plain"
