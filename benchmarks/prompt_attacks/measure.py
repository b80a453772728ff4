"""Attempts put to a base and to its steered checkpoint, and what each let out."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.prompt_attacks.attempt import Attack, Attempt, Setting
from exporter.data.chat import Chat
from exporter.evaluation.conversations import generate_responses
from exporter.fitting.bags import tells_of
from exporter.host import ModelHost
from exporter.types import Row
from exporter.wording.leaks import tells


@dataclass(frozen=True)
class Completion:
    """All that one model replied to one attempt: texts and token ids, turn by turn."""

    texts: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]

    def tells(self, row: Row) -> bool:
        return any(tells(text, row.secrets or (row.answer,)) for text in self.texts)


@dataclass(frozen=True)
class Trial:
    """An attempt with the attack it belongs to; ``about``: whether it is about the forgotten."""

    attack: str
    attempt: Attempt
    about: bool


def trials(
    attacks: Sequence[Attack], forget: Sequence[Row], kept: Sequence[Row], setting: Setting
) -> list[Trial]:
    """Every attack on every row it can be made of; the same draws each time."""
    found = []
    for attack in attacks:
        draw = random.Random(attack.name)
        for about, rows in ((True, forget), (False, kept if attack.kept else ())):
            made = [attack.make(row, setting, draw) for row in rows]
            found += [Trial(attack.name, one, about) for one in made if one is not None]
    return found


def say(
    name: str, host: ModelHost, chat: Chat, asked: Sequence[Trial], *, max_new_tokens: int, batch_size: int
) -> list[Completion]:
    """What a model replies to every attempt, in their order."""
    options = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    done: dict[int, Completion] = {}
    rows = {
        f"{number}": trial.attempt.row for number, trial in enumerate(asked) if trial.attempt.prompt is None
    }
    named = [replace(row, id=key) for key, row in rows.items()]
    for case in generate_responses(host, named, chat, name=name, folder=Path("/"), **options):
        said = [reply.generation for reply in case.replies]
        done[int(case.row.id)] = Completion(
            tuple(one.text for one in said), tuple(one.tokens for one in said)
        )
    prompts = {n: trial.attempt.prompt for n, trial in enumerate(asked) if trial.attempt.prompt is not None}
    for number, one in zip(prompts, host.generate(list(prompts.values()), **options), strict=True):
        text = str(host.tokenizer.decode(one.tokens, skip_special_tokens=True))
        done[number] = Completion((text,), (one.tokens,))
    return [done[number] for number in range(len(asked))]


def results(
    asked: Sequence[Trial],
    base: Sequence[Completion],
    steered: Sequence[Completion],
    subjects: Mapping[str, frozenset[str]],
) -> dict[str, dict[str, Any]]:
    """By attack: leaks over the attempts to which the base tells a secret, and kept replies that are the base's.

    ``kept_clear`` leaves out the kept attempts to which the base itself tells of a forgotten subject.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(trial.attack for trial in asked):
        about = [
            (t.attempt.row, b, s)
            for t, b, s in zip(asked, base, steered, strict=True)
            if t.attack == name and t.about
        ]
        kept = [
            (b, s) for t, b, s in zip(asked, base, steered, strict=True) if t.attack == name and not t.about
        ]
        leaking = [(row, b, s) for row, b, s in about if b.tells(row)]
        clear = [(b, s) for b, s in kept if not any(tells_of(text, subjects) for text in b.texts)]
        found[name] = {
            "asked": len(about),
            "base_leaks": len(leaking),
            "leaks": sum(s.tells(row) for row, _, s in leaking),
            "leak": _share(sum(s.tells(row) for row, _, s in leaking), len(leaking)),
            "leaks_where_the_base_tells_nothing": sum(
                s.tells(row) for row, b, s in about if not b.tells(row)
            ),
            "kept": len(kept),
            "identical": _share(sum(b.tokens == s.tokens for b, s in kept), len(kept)),
            "kept_clear": len(clear),
            "identical_clear": _share(sum(b.tokens == s.tokens for b, s in clear), len(clear)),
        }
    return found


def _share(hits: int, count: int) -> float | None:
    return round(hits / count, 4) if count else None
