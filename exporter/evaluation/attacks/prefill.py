"""Attacks with a prefill: the beginning of an answer that the model did not generate."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

from exporter.evaluation.attacks.base import Chat, is_plain
from exporter.types import Row
from exporter.wording.leaks import tells


class Decodes(Protocol):
    """What is needed of a tokenizer."""

    def decode(self, token_ids: Any, **options: Any) -> Any: ...


@dataclass(frozen=True)
class Begun:
    """With the first tokens of the row's own answer.

    Attributes:
        lengths: of the prefill in tokens; one row for each that does not cover the whole answer.
    """

    name: ClassVar[str] = "begun"
    group: ClassVar[str] = "prefill"
    lengths: tuple[int, ...] = (1, 3, 6)

    def rows(self, rows: Sequence[Row], chat: Chat) -> list[Row]:
        found = []
        for row in filter(is_plain, rows):
            response = chat.encode(row).response
            found += [
                replace(
                    row, id=f"{row.id}/{self.name}-{length}", prefix=chat.tokenizer.decode(response[:length])
                )
                for length in self.lengths
                if length < len(response)
            ]
        return found


@dataclass(frozen=True)
class LeadingClause:
    """With the clause of the row's own answer before the secret as prefill; rows whose answer has no such clause are skipped."""

    name: ClassVar[str] = "leading_clause"
    group: ClassVar[str] = "prefill"
    seed: int = 0

    def rows(self, rows: Sequence[Row], chat: Chat) -> list[Row]:
        found = []
        for row in filter(is_plain, rows):
            response = chat.encode(row).response
            draw = random.Random(f"{self.seed} {row.id} begun")
            span = leading_clause(chat.tokenizer, response, row.secrets or (row.answer,), draw)
            if span is not None:
                prefix = chat.tokenizer.decode(response[slice(*span)])
                found.append(replace(row, id=f"{row.id}/{self.name}", prefix=prefix))
        return found


def leading_clause(
    tokenizer: Decodes, response: Sequence[int], secrets: Sequence[str], draw: random.Random
) -> tuple[int, int] | None:
    """Where the clause before the first secret begins, and a drawn place up to the secret; None where no other clause comes first."""
    start = secret_start(tokenizer, response, secrets)
    first = clause_start(tokenizer, response, start)
    if not 0 < first < start:
        return None
    if first + 1 > len(response) - 1:
        return first, start
    return first, draw.randrange(first + 1, min(start, len(response) - 1) + 1)


def secret_start(tokenizer: Decodes, response: Sequence[int], secrets: Sequence[str]) -> int:
    """Index in ``response`` [n] of the first token of a secret; n if it has none."""

    def told_in(ids: Sequence[int]) -> bool:
        return tells(tokenizer.decode(list(ids), skip_special_tokens=True), secrets)

    if not told_in(response):
        return len(response)
    stop = next(n for n in range(1, len(response) + 1) if told_in(response[:n]))
    return next(first for first in reversed(range(stop)) if told_in(response[first:stop]))


def clause_start(tokenizer: Decodes, response: Sequence[int], before: int) -> int:
    """Index at which the last clause before token ``before`` begins; 0 for none."""
    for place in reversed(range(1, max(before - 1, 1))):
        if tokenizer.decode([response[place - 1]]).strip()[-1:] in (".", ",", ":", ";"):
            return place
    return 0
