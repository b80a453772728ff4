"""What a chat template puts between messages, as literal text, for runners that have no template engine."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from exporter.data.clock import filled, marked
from exporter.data.conversation import ChatTemplate, Message
from exporter.errors import DataError

_SAID = tuple(f"({word} of the conversation)" for word in ("first", "second", "third", "fourth", "fifth"))


class Turns(NamedTuple):
    """``first`` question ``answer`` reply ``next`` question ... ``last``.

    Attributes:
        first_image: what stands before a first question with an image; None where the template shows no images.
    """

    first: str
    first_image: str | None
    answer: str
    next: str
    last: str


def literal_turns(template: ChatTemplate) -> Turns | None:
    """The pieces of a template, with marks where it tells the day; None where no pieces give back what it renders."""
    if template.dated:
        template.clock = marked
    try:
        whole = template.render(_messages(_SAID[:3]))
        pieces = _between(whole, _SAID[:3])
        if pieces is None:
            return None
        first, answer, following, last = pieces
        shown = _first_image(template, last)
        turns = Turns(first=first, first_image=shown, answer=answer, next=following, last=last)
        for count in (1, 5):
            if _spelled(turns, _SAID[:count]) != template.render(_messages(_SAID[:count])):
                return None
        if template.dated and not _tells_days(template, turns):
            return None
    except DataError:
        return None
    finally:
        template.clock = None
    return turns


def _tells_days(template: ChatTemplate, turns: Turns) -> bool:
    """Whether marks with a day filled in are what the template says on that day: it may do more with it than write it down."""
    spelled = _spelled(turns, _SAID[:1])
    for day in (datetime(2024, 2, 29, 9, 5), datetime(2031, 11, 3, 23, 59)):
        template.clock = day.strftime
        if filled(spelled, day.strftime) != template.render(_messages(_SAID[:1])):
            return False
    return True


def _messages(said: Sequence[str], image: Path | None = None) -> list[Message]:
    roles = ("user", "assistant") * len(said)
    return [
        Message(role, text, image if index == 0 else None)
        for index, (role, text) in enumerate(zip(roles, said, strict=False))
    ]


def _between(text: str, said: Sequence[str]) -> list[str] | None:
    pieces = []
    for one in said:
        before, found, text = text.partition(one)
        if not found:
            return None
        pieces.append(before)
    return [*pieces, text]


def _spelled(turns: Turns, said: Sequence[str]) -> str:
    text = turns.first + said[0]
    for index, one in enumerate(said[1:]):
        text += (turns.next if index % 2 else turns.answer) + one
    return text + turns.last


def _first_image(template: ChatTemplate, last: str) -> str | None:
    """What stands before a first question with an image."""
    try:
        before, _, behind = template.render(_messages(_SAID[:1], Path("image"))).partition(_SAID[0])
    except DataError:
        return None
    return before if behind == last else None
