"""Evaluation of every target of a folder on test rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exporter import registry
from exporter.data.chat import Chat
from exporter.estimate import Estimate
from exporter.evaluation.case import Case, is_ordinary, touches_forgotten
from exporter.evaluation.conversations import generate_responses
from exporter.evaluation.measures import by_slice, measures
from exporter.evaluation.metrics.base import Answered
from exporter.evaluation.refusals import RefusalRule
from exporter.evaluation.report import BASE
from exporter.host import ModelHost
from exporter.pipeline.run import Run
from exporter.publish.coverage import NAMED
from exporter.publish.files import CHECKPOINT
from exporter.targets.values import LoadedTarget
from exporter.types import Row

STEERED = "steered"
ROWS = 100
"""Maximum number of evaluation rows for targets other than the checkpoint, a third of them forget rows."""
ROWS_KEY = "rows"
"""The key in verification.json of how many rows were counted."""
NEW_TOKENS = 32
"""Of each reply where no recipe says how many."""


class Replies:
    """Generations of the checkpoint and other targets for the same rows.

    Args:
        work: whose rows these are; None for plain questions.
        folder: image paths are reported relative to it.
        limit: rows at most; all for the checkpoint and ROWS for others where it is None.
    """

    def __init__(
        self, work: Run | None, rows: Sequence[Row], chat: Chat, folder: Path, limit: int | None
    ) -> None:
        self.work, self.chat, self.folder = work, chat, folder
        self.rows = list(rows) if limit is None else sample(rows, limit)
        self.fewer = sample(rows, ROWS if limit is None else limit)
        self.cases: dict[str, list[Case]] = {}
        self.targets: dict[str, str] = {STEERED: CHECKPOINT}
        """Which target each model of ``cases`` belongs to."""

    def of_checkpoint(self, host: ModelHost) -> None:
        """The checkpoint's own replies: to all rows, in the batches in which the base was asked."""
        every = {row.id: row for row in (*self.rows, *self.fewer)}
        self.cases[STEERED] = self._asked(STEERED, host, list(every.values()))

    def of(self, label: str, variant: str, target: LoadedTarget) -> dict[str, Any]:
        """Asks one variant of a target; returns the share of its replies that are the checkpoint's, token for token."""
        name = f"{label} {variant}".strip()
        rows = [row for row in self.fewer if target.images or row.image is None]
        self.cases[name] = self._asked(name, target.generators[variant], rows)
        self.targets[name] = label
        ours = {case.row.id: case for case in self.cases[STEERED]}
        same = registry.metric("same_tokens")
        return same.estimate(Answered(case, ours, RefusalRule.of()) for case in self.cases[name]).as_dict(
            ROWS_KEY
        )

    def _asked(self, name: str, generator: Any, rows: Sequence[Row]) -> list[Case]:
        if self.work is None:
            most, batch = NEW_TOKENS, 8
        else:
            most, batch = self.work.recipe.report.max_new_tokens, self.work.recipe.report.batch_size
        return generate_responses(
            generator,
            rows,
            self.chat,
            name=name,
            folder=self.folder,
            max_new_tokens=most,
            batch_size=batch,
        )


def sample(rows: Sequence[Row], limit: int) -> list[Row]:
    """Plain questions, at most ``limit``: a third of them to forget where there are as many, evenly from all, in their order."""
    plain = [row for row in rows if row.prefix is None and not row.history]
    about = [row for row in plain if row.role == "forget"]
    other = [row for row in plain if row.role != "forget"]
    first = min(len(about), max(-(-limit // 3), limit - len(other)))
    chosen = {row.id for row in (*_evenly(about, first), *_evenly(other, limit - first))}
    return [row for row in plain if row.id in chosen]


def unlearning(replies: Replies, section: Mapping[str, Any]) -> dict[str, Any]:
    """Unlearning measures of base, checkpoint and every other target, with 95% intervals."""
    assert replies.work is not None, "rows of a recipe"
    work, rule = replies.work, replies.work.rule()
    base = {case.row.id: case for case in work.generate(BASE)}
    asked = {case.row.id for case in replies.cases[STEERED]}
    models = {BASE: [case for name, case in base.items() if name in asked], **replies.cases}
    plain = {name: [case for case in cases if is_ordinary(case)] for name, cases in models.items()}
    slices = {name: by_slice(models[name], base, rule) for name in (BASE, STEERED)}
    roles = [case.row.role for case in plain[STEERED]]
    accepted, patterns = len(rule.accepted), len(rule.patterns)
    replies_told = "the whole reply" if accepted == 1 else f"one of {accepted} whole replies"
    patterns_told = "a pattern" if patterns == 1 else f"one of {patterns} patterns"
    return {
        "method": str(section["method"]),
        "rule": f"a fluent refusal is, word for word, {replies_told} that the publisher accepts"
        + (f", or matches {patterns_told}" if patterns else ""),
        "models": {name: _told(measures(cases, base, rule)) for name, cases in plain.items()},
        "eval_slices": {
            one: {name: _told(slices[name][one]) for name in (BASE, STEERED)} for one in slices[BASE]
        },
        "coverage": _coverage(models[STEERED], under_system=work.recipe.chat.system is not None),
        "rows": {
            "asked": len(asked),
            "plain": len(roles),
            **{role: roles.count(role) for role in sorted(set(roles))},
            "max_new_tokens": work.recipe.report.max_new_tokens,
        },
    }


def _coverage(cases: Sequence[Case], *, under_system: bool) -> dict[str, dict[str, object]]:
    """How much leaks by each way to ask that the rows try beside plain questions."""
    about = [case for case in cases if touches_forgotten(case)]
    found = {
        kind: [
            case
            for case in about
            if case.row.eval_slice is not None and any(part in case.row.eval_slice for part in parts)
        ]
        for kind, parts in NAMED.items()
    }
    found["later_turns"] = [case for case in about if case.row.history]
    found["forced_beginnings"] = [case for case in about if case.row.prefix is not None]
    if under_system:
        found["system_prompts"] = about
    leakage = registry.metric(registry.LEAKAGE)
    return {
        kind: leakage.estimate(Answered(case, {}, RefusalRule.of()) for case in some).as_dict(ROWS_KEY)
        for kind, some in found.items()
        if some
    }


def _told(values: Mapping[str, Estimate]) -> dict[str, object]:
    return {name: one.as_dict(ROWS_KEY) for name, one in values.items()}


def _evenly(rows: Sequence[Row], limit: int) -> list[Row]:
    return [rows[i * len(rows) // limit] for i in range(limit)] if len(rows) > limit else list(rows)
