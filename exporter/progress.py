"""How far a long piece of work is: a line for the log at most every ten seconds, terminal or not."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

LOG = logging.getLogger(__name__)
SECONDS = 10.0
T = TypeVar("T")


class Ticker:
    """Counts what is done of something and says so now and then; nothing is said of what is done sooner.

    Args:
        title: what is done.
        total: how much of it there is.
        done: how much of it was done before.
    """

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self.title, self.total, self.done = title, total, done
        self.last = time.monotonic()

    def advance(self, count: int = 1) -> None:
        """So much more is done."""
        self.done += count
        now = time.monotonic()
        if now - self.last >= SECONDS and self.done < self.total:
            self.last = now
            LOG.info("%s: %d of %d", self.title, self.done, self.total)


def ticked(items: Sequence[T], title: str) -> Iterator[T]:
    """The items one by one; how many are done is said now and then."""
    ticker = Ticker(title, len(items))
    for item in items:
        yield item
        ticker.advance()
