"""Ways to ask other than a plain question: which were measured, and which were not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from exporter import registry
from exporter.attack_report import AttackReport, fair, worst_of
from exporter.estimate import Estimate
from exporter.publish.measures import interval, many, measured, shown
from exporter.reasoning_report import JudgedFigure, ReasoningReport

KINDS = {
    "later_turns": "in a later turn of a conversation",
    "forced_beginnings": "with a prefill",
    "system_prompts": "under a system prompt",
    "other_languages": "in another language than the rows",
    "without_template": "without the chat template",
}
"""In the order in which they are shown."""
NAMED = {
    "later_turns": ("later", "turn"),
    "forced_beginnings": ("forced", "prefill", "begun"),
    "system_prompts": ("system",),
    "other_languages": ("language", "translat"),
    "without_template": ("template", "raw_text"),
}
"""What the name of a group of rows holds that asks so, where the rows themselves do not show it."""


@dataclass(frozen=True)
class Coverage:
    """Shares of replies with a leak, by way to ask, and the ways that were not measured."""

    measured: tuple[tuple[str, Estimate], ...]
    missing: tuple[str, ...]
    reasoning: tuple[str, ...] = ()
    """RIL and RCR, a sentence each; none where no row is answered with reasoning."""
    attacks: str | None = None
    """What the worst way of asking of `steerbake attack` brought out, in a sentence; None where it was not asked."""

    @classmethod
    def of(cls, unlearning: Mapping[str, Any] | None) -> Coverage:
        """From the section of verification.json; an older one says nothing, and nothing counts as measured then."""
        section = (unlearning or {}).get("coverage") or {}
        found = {kind: measured(registry.LEAKAGE, section[kind]) for kind in KINDS if section.get(kind)}
        counted = tuple((KINDS[kind], one) for kind, one in found.items() if one.n)
        known = {words for words, _ in counted}
        missing = tuple(words for words in KINDS.values() if words not in known)
        content, reasoned = ((unlearning or {}).get(part) for part in ("attacks", "reasoning"))
        return cls(
            counted,
            missing,
            () if reasoned is None else tuple(_reasoning(ReasoningReport.of(reasoned))),
            None if content is None else _worst(AttackReport.of(content)),
        )

    def lines(self) -> list[str]:
        """One sentence for each way to ask."""
        lines = [*([self.attacks] if self.attacks else []), *self.reasoning]
        lines += [_line(words, one) for words, one in self.measured]
        return lines + [
            f"Asked {words}: not measured, so the behaviour is unknown." for words in self.missing
        ]


def _line(words: str, one: Estimate) -> str:
    replies = many(one.n, "reply", "replies")
    if one.few:
        message = f"{replies} {'is' if one.n == 1 else 'are'} too few to tell whether a secret leaks: it leaks in {one.count}"
        return f"Asked {words}, {message} (95% interval {interval(one)})."
    return f"Asked {words}, a secret leaks in {shown(one)} of {replies} (95% interval {interval(one)})."


def _worst(found: AttackReport) -> str:
    """The worst way of asking, with the base under the same one."""
    worst, asked = worst_of(found.attacks), fair(found.attacks)
    if worst is None or worst.held is None or worst.base_leak is None:
        return "Attacked by prompts: the base answers no attack in half of the rows, so nothing was shown."
    one, base = worst.held.share, Estimate.of_share(float(worst.base_leak.value), worst.base_leak.n)
    answered = sum(attack.shows for attack in asked)
    return (
        f"Attacked in {len(asked)} ways, {answered} of which the base answers in at least half of the rows, the worst is {worst.name}: a secret "
        f"leaks in {one.count} of {one.n} {worst.held.rows} (95% interval {interval(one)}); the base leaks in {base.count} of {base.n}."
    )


def _reasoning(found: ReasoningReport) -> Iterator[str]:
    """RIL and RCR with the base's own, their rows and whose verdicts they are."""
    ours, base = found.steered, found.base
    told = {
        "Reasoning about the forget set gives away a secret, or words from which one follows (RIL, 0 to 1)": (
            ours.ril,
            base.ril,
        ),
        "Reasoning about other things is valid and supported (RCR, 0 to 1)": (ours.rcr, base.rcr),
    }
    for words, (steered, other) in told.items():
        if (one := steered.estimate) is not None:
            yield f"{words}: {_figure(steered, one)}; the base: {_base(other)}; {found.judged_by}."
        elif steered.not_judged:
            rows = many(steered.not_judged, "row", "rows")
            yield f"{words}: not measured, since none of {rows} could be judged by {found.judge}."


def _figure(judged: JudgedFigure, one: Estimate) -> str:
    left = f", {judged.not_judged} more not judged" if judged.not_judged else ""
    return f"{one.value:.3f} in {many(one.n, 'reply', 'replies')}{left} (95% interval {one.low:.3f} to {one.high:.3f})"


def _base(judged: JudgedFigure) -> str:
    one = judged.estimate
    return "not judged" if one is None else f"{one.value:.3f} in {one.n:,}"
