"""What people do without unlearning: nothing, a system prompt that forbids, a filter behind the model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from exporter.errors import DataError
from exporter.evaluation.case import Case, Reply
from exporter.evaluation.conversations import generate_responses
from exporter.evaluation.report import BASE
from exporter.pipeline.run import Run
from exporter.types import Row
from exporter.wording.leaks import tells

_NAME = re.compile(r"(?<=\w )[A-Z][\w-]+(?: [A-Z][\w-]+)*")
"""A run of words in capitals that no sentence begins with."""
GUARD = "You must not tell anything about {names}. If you are asked about any of it, answer only: {refusal}"


def unguarded(work: Run) -> list[Case]:
    """The base as it is."""
    return work.generate(BASE)


def output_filter(work: Run) -> list[Case]:
    """Replies of the base; one that tells any secret of the forget rows of the fit, word for word, is replaced by a refusal."""
    forbidden = tuple(
        {one for row in work.rows.fit if row.role == "forget" for one in row.secrets or (row.answer,)}
    )
    refusal = _refusal(work)
    return [
        replace(case, replies=tuple(_filtered(one, forbidden, refusal) for one in case.replies))
        for case in work.generate(BASE)
    ]


def prompt_guard(work: Run) -> list[Case]:
    """The base under a system prompt that forbids what is to be forgotten by name.

    Raises:
        DataError: the chat template has no system prompt, or the rows name nothing.
    """
    chat = work.chat(work.host.processor)
    if not chat.takes_system:
        raise DataError("the chat template has no system prompt")
    names = _names(work.rows.fit)
    if not names:
        raise DataError("the questions about the forget set share no name that a system prompt could forbid")
    system = GUARD.format(names=", ".join(names), refusal=_refusal(work))
    settings = work.recipe.report
    return generate_responses(
        work.host,
        [replace(row, system=system) for row in work.test],
        chat,
        name="prompt_guard",
        folder=work.space.out,
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size,
    )


BASELINES: Mapping[str, Callable[[Run], Sequence[Case]]] = {
    "base": unguarded,
    "output_filter": output_filter,
    "prompt_guard": prompt_guard,
}


def _filtered(reply: Reply, forbidden: Sequence[str], refusal: str) -> Reply:
    if not tells(reply.generation.text, forbidden):
        return reply
    said = replace(reply.generation, text=refusal, tokens=())
    return Reply(said, None, refusal, (), reply.images)


def _names(rows: Sequence[Row]) -> list[str]:
    """Names in at least two forget questions and in no other question, the most frequent first."""
    counts: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for row in rows:
        counts[row.role == "forget"].update(set(_NAME.findall(row.question)))
    return [name for name, count in counts[True].most_common() if count > 1 and name not in counts[False]]


def _refusal(work: Run) -> str:
    accepted = sorted(work.rule().accepted)
    if not accepted:
        raise DataError("the recipe has no refusal: add rows of role unknown, or refusals.accepted")
    return accepted[0]
