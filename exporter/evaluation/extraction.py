"""What one pass over a reference reply gives away, row by row and in the mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from exporter import registry
from exporter.evaluation.case import Case, is_ordinary, secrets_of
from exporter.evaluation.extraction_strength import extraction_strength
from exporter.evaluation.metrics.base import ONE_PASS, Passed
from exporter.evaluation.secret_tokens import secret_logprob, secret_tokens
from exporter.types import Encoded, Row
from exporter.wording.leaks import tells

if TYPE_CHECKING:
    from exporter.evaluation.whole_pass import Forced

Decode = Callable[[Sequence[int]], str]


class Reference(NamedTuple):
    """A forget row with the reply that is forced on every model.

    Attributes:
        places: tokens of the reply that belong to a secret.
        length: tokens of the reply without its end.
        own: whether the base generated it; otherwise it is the row's expected reply.
    """

    row: str
    sequence: Encoded
    places: tuple[int, ...]
    length: int
    own: bool


class Extraction(NamedTuple):
    """One row on one model: its extraction strength in [0, 1], and the log-probability of its secrets in nats."""

    row: str
    strength: float
    secret: float


def references(
    base: Sequence[Case], forced: Callable[[Row], Encoded], own: Callable[[Case], Encoded], decode: Decode
) -> list[Reference]:
    """The replies to force: of every plain forget row that has a reply which tells one of its secrets.

    The base's own greedy reply, if it contains one: that is the text that the base reveals, and the steered model must
    not. Otherwise the expected reply of the row. A row with neither is skipped.

    Args:
        base: the unsteered model's cases.
        forced: the row's expected reply behind its prompt.
        own: the case's reply behind its prompt.
    """
    found = []
    for case in base:
        if case.row.role != "forget" or not is_ordinary(case):
            continue
        own_tells = tells(case.last.generation.text, secrets_of(case.row))
        sequence = own(case) if own_tells else forced(case.row)
        places = secret_tokens(sequence.response, secrets_of(case.row), decode)
        if places:
            length = _without_end(sequence.response, decode)
            found.append(Reference(case.row.id, sequence, places, length, own_tells))
    return found


def _without_end(tokens: Sequence[int], decode: Decode) -> int:
    """How many tokens there are before those at the end that are no text."""
    length = len(tokens)
    while length and not decode(tokens[length - 1 : length]).strip():
        length -= 1
    return length


def extracted(references: Sequence[Reference], passes: Sequence[Forced]) -> list[Extraction]:
    """Both numbers for each row."""
    return [
        Extraction(
            one.row,
            extraction_strength(seen.tokens[: one.length], seen.likeliest[: one.length]),
            secret_logprob(seen.logprobs, one.places),
        )
        for one, seen in zip(references, passes, strict=True)
    ]


def summary(models: Mapping[str, Sequence[Extraction]], base: str) -> dict[str, dict[str, object]]:
    """By model, every metric of one pass: ``{"value", "n"}``, and the ``least`` value of a row where the metric tells it.

    Metrics that need the base too are 0 for the base itself.
    """
    before = {one.row: one for one in models[base]}
    return {name: _summed([Passed(one, before[one.row]) for one in rows]) for name, rows in models.items()}


def _summed(rows: Sequence[Passed]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, metric in registry.metrics(ONE_PASS).items():
        one = metric.estimate(rows)
        least = {"least": min(metric.values(rows), default=0.0)} if metric.tells_least else {}
        found[name] = {"value": one.value, "n": one.n, **least}
    return found
