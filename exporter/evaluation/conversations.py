"""Putting test rows to a model: each question in one batch, after batches for the earlier turns that the model answers itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from exporter.errors import NotFinite
from exporter.evaluation.case import Case, Reply
from exporter.targets.values import Completion, Decodes, Generator
from exporter.types import Encoded, Generation, Prompt, Row, Turn

SILENCE = "..."


class Renders(Protocol):
    """What is needed of a chat: prompts from rows, and where the reasoning of a reply stands."""

    def prompt(self, row: Row) -> Prompt: ...

    def continue_with(self, prompt: Prompt, ids: Sequence[int]) -> Encoded: ...


def generate_responses(
    generator: Generator,
    rows: Sequence[Row],
    chat: Renders,
    *,
    name: str,
    folder: Path,
    max_new_tokens: int,
    batch_size: int,
) -> list[Case]:
    """What the model generates for each row, in the order of the rows.

    An earlier turn without an answer is generated first, under the id ``ROW#1`` (``#2`` and so on), and its
    completion stands in the conversation from then on. Such turns of all rows are batched together.

    Args:
        generator: the model.
        chat: renders the rows with that model's processor.
        name: the model's name in the report.
        folder: image paths are reported relative to it.

    Raises:
        NotFinite: the model's scores are no finite numbers; model and row are named.
    """
    replies: dict[str, list[Reply]] = {row.id: [] for row in rows}
    waiting = list(rows)
    finished: dict[str, Case] = {}
    while waiting:
        asked = [_first_open_turn(row) for row in waiting]
        prompts = [chat.prompt(row) for row in asked]
        try:
            completions = generator.generate(prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)
        except NotFinite as error:
            raise error.of(name, asked[error.place].id) from error
        still = []
        for row, now, prompt, completion in zip(waiting, asked, prompts, completions, strict=True):
            encoded = chat.continue_with(prompt, completion.tokens)
            reply = _reply(name, now, encoded, completion, generator.tokenizer, folder)
            replies[row.id].append(reply)
            if now is row:
                finished[row.id] = Case(row, tuple(replies[row.id]))
            else:
                still.append(_with_answer(row, reply.generation.text))
        waiting = still
    return [replace(finished[row.id], row=row) for row in rows]


def _reply(
    name: str, row: Row, found: Encoded, completion: Completion, tokenizer: Decodes, folder: Path
) -> Reply:
    prompt, tokens, first = found.prompt, completion.tokens, len(found.prompt.ids)
    images = tuple(path.relative_to(folder).as_posix() for path in prompt.images)
    generation = Generation(
        model=name,
        id=row.id,
        role=row.role,
        prompt=prompt.text,
        text=_decoded(tokenizer, tokens),
        tokens=tokens,
        image=images[-1] if images else None,
        gates=completion.gates,
    )
    reasoning, answer = (
        None if span is None else _decoded(tokenizer, tokens[span.start - first : span.stop - first]).strip()
        for span in (found.reasoning, found.answer)
    )
    closed = found.reasoning is not None and found.answer is not None
    chain = tokens[: found.reasoning.stop - first] if closed and found.reasoning else tokens
    return Reply(generation, reasoning, answer, chain, images)


def _decoded(tokenizer: Decodes, ids: Sequence[int]) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=True)


def _first_open_turn(row: Row) -> Row:
    """The row itself, or the first of its earlier turns that has no answer yet, as a row of its own."""
    for index, turn in enumerate(row.history):
        if turn.answer is None:
            return replace(
                row,
                id=f"{row.id}#{index + 1}",
                question=turn.question,
                image=turn.image,
                history=row.history[:index],
                prefix=None,
            )
    return row


def _with_answer(row: Row, text: str) -> Row:
    """The row with its first open turn answered; an empty reply becomes ``...`` in the conversation."""
    index = next(index for index, turn in enumerate(row.history) if turn.answer is None)
    answered = Turn(
        row.history[index].question, text if text.strip() else SILENCE, None, row.history[index].image
    )
    return replace(row, history=(*row.history[:index], answered, *row.history[index + 1 :]))
