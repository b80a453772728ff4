"""The contract of a judge, and what it is asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from exporter.evaluation.case import Case
from exporter.evaluation.metrics import rows
from exporter.evaluation.metrics.base import Evaluated
from exporter.evaluation.metrics.instead import SCALES
from exporter.evaluation.metrics.reasoning import IMPLICIT, SUPPORTED, about_forgotten, about_kept
from exporter.types import Row
from exporter.wording.words import normalise

ASPECTS = (IMPLICIT, SUPPORTED, *SCALES)


@dataclass(frozen=True)
class Matter:
    """One reply, and what of it is to be judged.

    Attributes:
        aspect: of ``ASPECTS``.
        case: the reply with its row.
        base: the base's reply to the row; None where the base itself is judged.
        derived: words from which a secret of the row follows, by the rows alone.
    """

    aspect: str
    case: Case
    base: Case | None
    derived: tuple[str, ...] = ()

    @property
    def scale(self) -> tuple[int, int]:
        """Least and largest verdict: 0 and 1 for no and yes."""
        return SCALES.get(self.aspect, (0, 1))


class Judge(Protocol):
    """Gives verdicts."""

    @property
    def name(self) -> str:
        """What a report calls it; verdicts of another name are not taken for its own."""
        ...

    @property
    def is_quick(self) -> bool:
        """Whether a verdict costs nothing, so that none need be kept."""
        ...

    def verdict(self, matter: Matter) -> float | None:
        """A number within the matter's scale; None where it cannot tell, which is counted neither way."""
        ...


def matters(seen: Evaluated, derived: tuple[str, ...], *, is_base: bool) -> Iterator[Matter]:
    """What of one reply is to be judged: of forget rows the reasoning and what is said instead, of kept ones the reasoning."""
    base = None if is_base else seen.other
    aspects = [IMPLICIT] if about_forgotten(seen) else []
    aspects += [SUPPORTED] if about_kept(seen) else []
    aspects += SCALES if rows.about_forgotten(seen) else []
    yield from (Matter(aspect, seen.case, base, derived) for aspect in aspects)


def closure(every: Sequence[Row]) -> dict[str, tuple[str, ...]]:
    """By row id, all words from which a secret of the row follows, over any number of steps.

    A row says that a secret follows from each of its ``derived_secrets``. Where another row's secret is one of those, what that row says of
    it counts too: a quarter betrays its city, and by it the country.
    """
    steps: dict[str, dict[str, str]] = {}
    for row in every:
        for secret in row.secrets or (row.answer,):
            steps.setdefault(_key(secret), {}).update({_key(word): word for word in row.derived_secrets})
    return {row.id: _reached(row, steps) for row in every}


def _reached(row: Row, steps: dict[str, dict[str, str]]) -> tuple[str, ...]:
    found = {_key(word): word for word in row.derived_secrets}
    waiting = list(found)
    while waiting:
        for key, word in steps.get(waiting.pop(), {}).items():
            if key not in found:
                found[key] = word
                waiting.append(key)
    return tuple(found.values())


def _key(word: str) -> str:
    return normalise(word).casefold()
