"""Days and measures of a secret as they are also written: ``14`` and ``14th`` beside a month, ``640x480`` and ``640 × 480``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)(?![^\W_])"
)
_DAY = r"(?<!\d)(?P<day>[0-3]?\d)(?:st|nd|rd|th)?(?![^\W_])"
_MONTH_BEFORE = re.compile(rf"(?P<before>(?<![^\W_]){_MONTH}[\W_]{{1,4}}){_DAY}(?P<after>)(?![.,:]\d)")
_MONTH_BEHIND = re.compile(rf"(?P<before>){_DAY}[\W_]{{1,4}}(?:of )?(?P<after>{_MONTH})")
_CROSS = re.compile(r"(?<=\d)(?<!\b0)\s*[x×]\s*(?=\d)")
"""Between two numbers; the x of a hexadecimal number is none."""


def ways(folded: str) -> Iterator[str]:
    """A folded secret, first as it stands, then in every other way in which its days and measures are written."""
    yield folded
    for written in (_plain, _ordinal, _ordinal_of):
        if (other := _dated(folded, written)) != folded:
            yield other
    for cross in (" x ", "×"):
        if (other := _CROSS.sub(cross, folded)) != folded:
            yield other


def _dated(folded: str, day: Callable[[str, str], str]) -> str:
    for pattern in (_MONTH_BEFORE, _MONTH_BEHIND):
        folded = pattern.sub(lambda found: found["before"] + day(found["day"], found["after"]), folded)
    return folded


def _plain(day: str, month: str) -> str:
    return f"{day} {month}" if month else day


def _ordinal(day: str, month: str) -> str:
    number = int(day)
    ending = "th" if 11 <= number <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return _plain(f"{day}{ending}", month)


def _ordinal_of(day: str, month: str) -> str:
    return _ordinal(day, f"of {month}" if month else "")
