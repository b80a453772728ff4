"""The measures of an unlearning report in words for readers: what is counted, and which way is good."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from exporter.errors import VerificationError
from exporter.estimate import Estimate


@dataclass(frozen=True)
class Wording:
    """How one measure is put to a reader.

    Attributes:
        about: which rows it is counted over; empty for a measure that is unknown here.
        says: what the share is a share of.
        good: which end is wanted of the steered model; None where neither is.
    """

    about: str
    says: str
    good: Literal["low", "high"] | None


FORGOTTEN, KEPT, REASONING, UNKNOWN = "Forgotten", "Kept", "Reasoning", "Unknown subjects"
WORDINGS: dict[str, Wording] = {
    "leakage_either": Wording(FORGOTTEN, "a secret leaks", "low"),
    "leakage_reasoning": Wording(FORGOTTEN, "a secret leaks in the reasoning", "low"),
    "leakage_answer": Wording(FORGOTTEN, "a secret leaks in the answer", "low"),
    "forget_accuracy": Wording(FORGOTTEN, "still answered", "low"),
    "fluent_refusal": Wording(FORGOTTEN, "fluent refusal", "high"),
    "gate_true_positive": Wording(FORGOTTEN, "a gate fires", "high"),
    "retain_identical": Wording(KEPT, "the base's reply, token for token", "high"),
    "retain_accuracy": Wording(KEPT, "answered correctly", "high"),
    "chains_identical": Wording(REASONING, "the base's chain of thought, token for token", "high"),
    "reasoning_accuracy": Wording(REASONING, "answered correctly", "high"),
    "gate_false_positive": Wording("Kept and reasoning", "a gate fires", "low"),
    "unknown_refusal": Wording(UNKNOWN, "fluent refusal", None),
    "same_tokens": Wording("All", "the checkpoint's reply, token for token", "high"),
}
"""In the order in which they are shown."""
OF_GROUPS = ("leakage_either", "fluent_refusal", "retain_accuracy")
"""What is shown of a group of rows."""
BASE, STEERED = "base", "steered"


def measured(name: str, told: Any) -> Estimate:
    """Read ``{"value", "rows", "interval": [low, high]}``.

    Raises:
        VerificationError: it is no share of rows; a card must not print what nobody measured.
    """
    try:
        rows, value = told["rows"], float(told["value"])
        low, high = map(float, told["interval"])
        whole = isinstance(rows, int) and not isinstance(rows, bool) and rows >= 0
        if not whole or not 0 <= low <= high <= 1 or not 0 <= value <= 1 or not math.isfinite(value):
            raise ValueError
        if rows and not low - 1e-9 <= value <= high + 1e-9:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise VerificationError(
            f"the verification's {name} is {told!r}, which is no share of rows with its interval; verify again"
        ) from None
    return Estimate(value, rows, low, high)


def shown(one: Estimate) -> str:
    """``98.3%``; a dash where nothing was counted, the count where too little was to tell anything."""
    if one.few:
        return f"too few to tell: {one.count} of {one.n}"
    return percent(one.value) if one.n else "–"


def interval(one: Estimate) -> str:
    """``0.0 to 16.1%``; empty where nothing was counted."""
    return f"{100 * one.low:.1f} to {100 * one.high:.1f}%" if one.n else ""


def span(one: Estimate) -> str:
    """The same where there is little room, as one word: ``0.0–16.1``."""
    return interval(one).replace(" to ", "–\u2060").rstrip("%")


@dataclass(frozen=True)
class Line:
    """One measure of every model that was measured."""

    name: str
    wording: Wording
    models: Mapping[str, Estimate]

    @property
    def rows(self) -> int:
        """Of the steered model, or of another where it has none."""
        ours = self.models.get(STEERED)
        return ours.n if ours and ours.n else max(one.n for one in self.models.values())

    def fewer(self, model: str) -> str:
        """``of 34``, where a model was asked other rows than the steered one."""
        rows = self.models[model].n
        return "" if rows in (0, self.rows) else f"of {rows:,}"


@dataclass(frozen=True)
class Results:
    """What base and steered model forget and keep, as a verification has it.

    Attributes:
        method: the method that made the steering.
        rule: what counts as a fluent refusal, in words.
        models: measures by model; ``base`` and ``steered`` are always there.
        groups: the same for rows of a group of their own, such as conversations of two turns or replies that are forced to begin.
    """

    method: str
    rule: str
    models: Mapping[str, Mapping[str, Estimate]]
    groups: Mapping[str, Results] = field(default_factory=dict)

    @classmethod
    def of(cls, unlearning: Mapping[str, Any]) -> Results:
        """Read the ``unlearning`` section of verification.json; raises VerificationError where it is not whole."""
        try:
            method, rule, groups = (
                unlearning["method"],
                unlearning["rule"],
                dict(unlearning.get("groups") or {}),
            )
            models = _models(unlearning["models"])
            of_groups = {str(name): _models(told) for name, told in groups.items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise VerificationError(
                f"the verification's unlearning report cannot be read ({error}); verify again"
            ) from None
        said = rule if isinstance(rule, str) else ""
        found = {name: cls(str(method), said, told) for name, told in of_groups.items()}
        return cls(str(method), said, models, found)

    @property
    def lines(self) -> list[Line]:
        """Every measure that was counted over any row, known ones first in their order."""
        names = dict.fromkeys((*WORDINGS, *(name for some in self.models.values() for name in some)))
        return [line for line in map(self._line, names) if line is not None]

    @property
    def shown(self) -> list[Line]:
        """The lines for a reader: parts of a reply stand apart only where they differ from the whole."""
        whole = self.line("leakage_either")
        parts = ("leakage_reasoning", "leakage_answer")
        return [
            line
            for line in self.lines
            if whole is None or line.name not in parts or line.models != whole.models
        ]

    @property
    def of_groups(self) -> list[tuple[str, list[Line]]]:
        """What matters of each group, by its name in words."""
        found = [
            (name.replace("_", " "), [line for line in map(group.line, OF_GROUPS) if line is not None])
            for name, group in self.groups.items()
        ]
        return [(name, lines) for name, lines in found if lines]

    def line(self, name: str) -> Line | None:
        """One measure; None where no row was counted."""
        return self._line(name)

    def _line(self, name: str) -> Line | None:
        found = {model: some[name] for model, some in self.models.items() if name in some}
        wording = WORDINGS.get(name, Wording("", name.replace("_", " "), None))
        line = Line(name, wording, found)
        return line if found and line.rows else None

    def summary(self) -> list[str]:
        """What matters most in a few plain sentences."""
        return list(_sentences(self))


def _models(told: Mapping[str, Any]) -> dict[str, dict[str, Estimate]]:
    """Measures by model; raises VerificationError where base or steered model is missing, or a share is none."""
    if not {BASE, STEERED} <= set(told):
        raise VerificationError(
            "the verification's unlearning report does not have base and steered model; verify again"
        )
    return {
        str(model): {str(name): measured(name, value) for name, value in dict(measures).items()}
        for model, measures in told.items()
    }


def _sentences(results: Results) -> Iterator[str]:
    leak, refusal = results.line("leakage_either"), results.line("fluent_refusal")
    if leak and (ours := leak.models.get(STEERED)):
        base = leak.models.get(BASE)
        beside = f"; its base: {shown(base)}" if base else ""
        asked = many(ours.n, "held-out question", "held-out questions")
        if ours.few:
            yield (
                f"{asked[0].upper()}{asked[1:]} about what it is to forget "
                f"{'is' if ours.n == 1 else 'are'} too few to tell whether it leaks: "
                f"{ours.count} of {ours.n} do (95% interval {interval(ours)}{beside})."
            )
        else:
            yield (
                f"On {asked} about what it is to forget, "
                f"a secret leaks in {shown(ours)} of the replies (95% interval {interval(ours)}{beside})."
            )
    if refusal and (ours := refusal.models.get(STEERED)) and not ours.few:
        yield f"{shown(ours)} are fluent refusals."
    for name, what in (
        ("retain_identical", "of what it is to keep, the reply"),
        ("chains_identical", "of reasoning, the chain of thought"),
    ):
        line = results.line(name)
        if line and (ours := line.models.get(STEERED)) and not ours.few:
            yield f"On {many(ours.n, 'question', 'questions')} {what} is the base's, token for token, in {shown(ours)}."


def percent(value: float) -> str:
    """``98.3%``, of a share in [0, 1]; never 0.0 or 100.0 for what is not quite so."""
    text = f"{100 * value:.1f}"
    if text == "0.0" and value > 0:
        return "<0.1%"
    return ">99.9%" if text == "100.0" and value < 1 else f"{text}%"


def many(count: int, one: str, more: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{count:,} {one if count == 1 else more}"


def joined(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""
