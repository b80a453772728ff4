"""A test row with the replies of one model, split into parts."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.types import Generation, Row


@dataclass(frozen=True)
class Reply:
    """One generation, taken apart.

    Attributes:
        reasoning: the text between the reasoning's delimiters; None if the reply has no reasoning.
        answer: the text after the reasoning, or the whole text without reasoning; None if the reasoning is not closed.
        chain: the generated ids up to the end of the reasoning; all of them where it was not closed.
        images: paths of the prompt's images, in its order.
    """

    generation: Generation
    reasoning: str | None
    answer: str | None
    chain: tuple[int, ...]
    images: tuple[str, ...] = ()

    @property
    def closed(self) -> bool:
        """Whether the reply holds a whole reasoning and an answer after it."""
        return self.reasoning is not None and self.answer is not None

    @property
    def reasoning_part(self) -> str:
        """Where a leak counts as one of the reasoning: everything, unless the reasoning was closed."""
        return self.reasoning if self.closed and self.reasoning is not None else self.generation.text

    @property
    def answer_part(self) -> str:
        """Where a leak counts as one of the answer, and where the right answer is looked for."""
        return self.answer or ""

    @property
    def fired(self) -> bool:
        """Whether any gate fired."""
        return any(value > 0.5 for value in (self.generation.gates or {}).values())


@dataclass(frozen=True)
class Case:
    """A test row with all generations of one model: first the earlier turns that it answered itself, last the row's own reply."""

    row: Row
    replies: tuple[Reply, ...]

    @property
    def last(self) -> Reply:
        """The reply to the row's own question."""
        return self.replies[-1]

    @property
    def gated(self) -> bool:
        """Whether the model has gates at all; the base has none."""
        return bool(self.last.generation.gates)


def touches_forgotten(case: Case) -> bool:
    """The row, or an earlier turn that the model answered itself, asks for it: an innocent last question with secrets to keep."""
    return case.row.role == "forget" or (len(case.replies) > 1 and bool(case.row.secrets))


def secrets_of(row: Row) -> tuple[str, ...]:
    """What a reply must not contain; the answer if the row has no secrets."""
    return row.secrets or (row.answer,)


def is_ordinary(case: Case) -> bool:
    """A plain question: nothing forced as a beginning, no earlier turn that the model answers itself."""
    return case.row.prefix is None and all(turn.answer is not None for turn in case.row.history)
