"""The contract of an attack: a transformation of rows that may make a model leak the forget set, or change its replies to the retain set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol

from exporter.types import Encoded, Row


class Chat(Protocol):
    """What is needed of a chat template (:class:`exporter.data.chat.Chat`)."""

    tokenizer: Any

    @property
    def takes_system(self) -> bool: ...

    def encode(self, row: Row) -> Encoded: ...


class Attack(Protocol):
    """A way of asking. A class that needs no argument, and a line in the registry, are all there is to add."""

    name: ClassVar[str]
    """Of the group in which a report has its rows."""

    def rows(self, rows: Sequence[Row], chat: Chat) -> list[Row]:
        """The rows that are single questions (:func:`is_plain`), attacked: the same for the same rows, with ids made of theirs.

        Each keeps its role, answer and secrets. A row of which none can be made is left out; all are where the chat template lacks what
        the attack needs.
        """
        ...


def is_plain(row: Row) -> bool:
    """Whether a row is a single question."""
    return not row.history and row.prefix is None


def in_slice(attack: Attack, rows: Sequence[Row], chat: Chat) -> list[Row]:
    """Attacked rows as a report has them: in the group of the attack."""
    return [replace(row, eval_slice=attack.name) for row in attack.rows(rows, chat)]
