"""How far a long piece of work is: a bar on a terminal, else a line for the log at most every ten seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

LOG = logging.getLogger(__name__)
SECONDS = 10.0
T = TypeVar("T")
Listener = Callable[[str, int, int], None]
"""Called with the step, the number done and the total."""
_LISTENER: ContextVar[Listener | None] = ContextVar("steerbake_progress", default=None)


@contextmanager
def heard_by(listener: Listener | None) -> Iterator[None]:
    """Within it, a listener hears of every step; what it raises ends the work."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


class Ticker:
    """Counts what is done of something and says so now and then; nothing is said of what is done sooner, but to a listener.

    Args:
        title: what is done.
        total: how much of it there is.
        done: how much of it was done before.
    """

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self.title, self.total, self.done = title, total, done
        self.last = time.monotonic()
        self._hear()

    def advance(self, count: int = 1) -> None:
        """So much more is done."""
        self.done += count
        self._hear()
        now = time.monotonic()
        if now - self.last >= SECONDS and self.done < self.total:
            self.last = now
            LOG.info("%s: %d of %d", self.title, self.done, self.total)

    def _hear(self) -> None:
        if (listener := _LISTENER.get()) is not None:
            listener(self.title, self.done, self.total)


def ticked(items: Sequence[T], title: str) -> Iterator[T]:
    """The items one by one; how many are done is said now and then."""
    ticker = Ticker(title, len(items))
    for item in items:
        yield item
        ticker.advance()


class Bar(Progress):
    """A bar of rich that speaks in lines where no terminal shows it."""

    def __init__(self, *columns: Any, **options: Any) -> None:
        super().__init__(*columns, **options)
        self.disable = self.disable or not self.console.is_terminal
        self.tickers: dict[TaskID, Ticker] = {}

    def add_task(self, description: str, *args: Any, **fields: Any) -> TaskID:
        """A task as rich has it."""
        task = super().add_task(description, *args, **fields)
        self.tickers[task] = Ticker(
            description, int(fields.get("total") or 0), int(fields.get("completed") or 0)
        )
        return task

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """So much more of a task is done."""
        super().advance(task_id, advance)
        if self.disable:
            self.tickers[task_id].advance(int(advance))


def progress_bar(shown: bool) -> Bar:
    """A bar that goes away when it is done; none where nobody asked for it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Bar(*columns, transient=True, disable=not shown)
