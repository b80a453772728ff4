"""Exceptions a user can meet. Each message states what is wrong, what was received, and how to fix it."""

from __future__ import annotations

from collections.abc import Sequence

MOST_LISTED = 20
"""Problems of one kind or file that a message lists; the others are counted."""


MOST_TOLD = 20
"""Problems that one message writes out."""


def shortened(problems: Sequence[str], most: int = MOST_LISTED) -> list[str]:
    """The first problems, and in one line how many more there are."""
    left = len(problems) - most
    return list(problems) if left <= 1 else [*problems[:most], f"and {left:,} more like these"]


class SteerbakeError(Exception):
    """Base of every error this library raises on purpose; the command line prints it and exits with status 2."""


class InputErrors(SteerbakeError):
    """Everything wrong with one input (a recipe, a row file), reported together.

    Args:
        source: what was read, as the user named it.
        problems: one line each, already naming the key or line number.
    """

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source = source
        self.problems = tuple(problems)
        shown = shortened(self.problems, MOST_TOLD)
        lines = "\n".join(f"  - {problem}" for problem in shown)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems):,} problems"
        super().__init__(f"{source}: {count}\n{lines}")

    def __reduce__(self) -> tuple[type[InputErrors], tuple[str, tuple[str, ...]]]:
        """So that it comes whole out of another process."""
        return type(self), (self.source, self.problems)


class DataError(SteerbakeError):
    """Rows that cannot be used: a truncated span, an unreadable image, no row of a needed role."""


class FitError(SteerbakeError):
    """A fit that must not be trusted: no separable gate, no agreed prototype, non-finite states."""


class CompileError(SteerbakeError):
    """A target that refuses to write: existing destination, other base, unsupported family."""


class VerificationError(SteerbakeError):
    """An artifact that is not what it claims to be."""


class NotFinite(SteerbakeError):
    """A model whose scores for the next token are no finite numbers: what is taken for its reply is an accident, and forgets everything.

    Args:
        place: of the prompt, in the order in which they were given.
        named: the model and the row, where they are known.
    """

    def __init__(self, place: int, named: str | None = None) -> None:
        self.place = place
        super().__init__(
            f"{named or f'prompt {place + 1}'}: the model's scores for the next token are not finite numbers, so nothing can be said of it; "
            "its weights are damaged, or overflow in this dtype: load it in float32 (base.dtype), or make it anew"
        )

    def of(self, model: str, row: str) -> NotFinite:
        """The same with the names of the model and the row."""
        return NotFinite(self.place, f"{model}, row {row}")


class PublishError(SteerbakeError):
    """A folder or repository that cannot be published or verified; the message states its current state."""
