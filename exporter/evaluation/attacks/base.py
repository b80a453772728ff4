"""The contract of an attack: a transformation of rows that may make a model leak the forget set, or change its replies to the retain set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

from exporter.types import Encoded, Prompt, Row


class ResponseParts(Protocol):
    """The literals that open and close the reasoning of a response; ``reasons`` is False where there is none."""

    @property
    def opening(self) -> str: ...

    @property
    def closing(self) -> str: ...

    @property
    def reasons(self) -> bool: ...

    def opened_by(self, beginning: str) -> bool: ...


class Begins(Protocol):
    """``generation_prompt``: what a template puts before the model's turn."""

    generation_prompt: str


class Chat(Protocol):
    """What is needed of a chat template (:class:`exporter.data.chat.Chat`)."""

    tokenizer: Any

    @property
    def takes_system(self) -> bool: ...

    @property
    def format(self) -> ResponseParts: ...

    @property
    def template(self) -> Begins: ...

    def encode(self, row: Row) -> Encoded: ...


class BareChat(Protocol):
    """What is needed of a chat to ask past its template: its processor's ids of any text."""

    @property
    def processor(self) -> object: ...

    def tokenize(self, text: str, images: Sequence[Path] = ()) -> Any: ...

    def continue_with(self, prompt: Prompt, ids: Sequence[int]) -> Encoded: ...


class Attack(Protocol):
    """A way of asking. A class that needs no argument, and a line in the registry, are all there is to add.

    A class may also have ``group`` (:func:`group_of`), and ``rendered(chat)``: what renders its rows in place of the chat, where no chat
    template is to stand around them.
    """

    name: ClassVar[str]
    """Of the group in which a report has its rows."""

    def rows(self, rows: Sequence[Row], chat: Chat) -> list[Row]:
        """The rows that are single questions (:func:`is_plain`), attacked: the same for the same rows, with ids made of theirs.

        Each keeps its role, answer and secrets. A row of which none can be made is left out; all are where the chat template lacks what
        the attack needs. A picture that an attack changes is written beside the row's own.
        """
        ...


def group_of(attack: Attack) -> str:
    """Which attacks it is chosen together with; those of installed packages that name none are ``added``."""
    return str(getattr(attack, "group", "added"))


def is_plain(row: Row) -> bool:
    """Whether a row is a single question."""
    return not row.history and row.prefix is None


def in_slice(attack: Attack, rows: Sequence[Row], chat: Chat) -> list[Row]:
    """Attacked rows as a report has them: in the group of the attack."""
    return [replace(row, eval_slice=attack.name) for row in attack.rows(rows, chat)]
