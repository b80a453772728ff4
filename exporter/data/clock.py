"""The day that a chat template tells by ``strftime_now``: fixed where prompts are measured or recorded, today's in a conversation.

A day that was today's when a run began would be another when it is verified, and the same question another prompt. So the day follows
from the conversation itself, and differs from one to the next, so that nothing is fitted to one day.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from threading import RLock

ASKS = "strftime_now"
MARK = "\ue000"
"""Stands around a format in the pieces of a template that tell the day (``steerbake_runner.py`` fills it in)."""
_FIRST, _DAYS = datetime(2024, 1, 1, 12, 0), 1461
_LOCK = RLock()


def day_of(text: str) -> Callable[[str], str]:
    """``strftime`` of noon of a day in 2024 to 2027, which follows from a text."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return (_FIRST + timedelta(days=int.from_bytes(digest[:4], "big") % _DAYS)).strftime


def marked(form: str) -> str:
    """In place of a day, a mark that says how it is to be written."""
    return f"{MARK}{form}{MARK}"


def filled(text: str, strftime: Callable[[str], str]) -> str:
    """A text with a day in place of its marks."""
    return re.sub(f"{MARK}(.*?){MARK}", lambda found: strftime(found[1]), text)


class _Moment:
    """In place of ``datetime``: every now is the given one."""

    def __init__(self, strftime: Callable[[str], str]) -> None:
        self.strftime = strftime

    def now(self, *_: object) -> _Moment:
        return self


@contextmanager
def fixed_clock(strftime: Callable[[str], str]) -> Iterator[None]:
    """While it is open, ``strftime_now`` of Transformers' chat templates is ``strftime``."""
    from transformers.utils import chat_template_utils as home

    with _LOCK:
        before = vars(home)["datetime"]
        vars(home)["datetime"] = _Moment(strftime)
        try:
            yield
        finally:
            vars(home)["datetime"] = before
