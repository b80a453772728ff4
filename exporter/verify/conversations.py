"""Putting test rows to a model: each question in one batch, after batches for the earlier turns that the model answers itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from exporter.types import Encoded, Generation, Prompt, Row, Turn
from exporter.verify.unlearning import Case, Reply

SILENCE = "..."


class Renders(Protocol):
    """What is needed of a chat: prompts from rows, and where the reasoning of a reply stands."""

    def prompt(self, row: Row) -> Prompt: ...

    def continue_with(self, prompt: Prompt, ids: Sequence[int]) -> Encoded: ...


class Continuation(Protocol):
    """Greedy ids of one prompt, with the gates that were decided."""

    @property
    def tokens(self) -> tuple[int, ...]: ...

    @property
    def gates(self) -> Mapping[str, float] | None: ...


class Speaks(Protocol):
    """What is needed of a model: greedy continuations in the order of the prompts, and a tokenizer."""

    @property
    def tokenizer(self) -> Decodes: ...

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, batch_size: int = 32
    ) -> Sequence[Continuation]: ...


class Decodes(Protocol):
    """Text of ids."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str: ...


class Interview:
    """Runs rows on one model.

    Args:
        name: the model's name in the report.
        speaker: the model.
        chat: renders the rows with that model's processor.
        folder: image paths are reported relative to it.
    """

    def __init__(self, name: str, speaker: Speaks, chat: Renders, folder: Path) -> None:
        self.name, self.speaker, self.chat, self.folder = name, speaker, chat, folder

    def run(self, rows: Sequence[Row], *, max_new_tokens: int, batch_size: int) -> list[Case]:
        """What the model says to each row, in the order of the rows.

        An earlier turn without an answer is put to the model first, under the id ``ROW#1`` (``#2`` and so on), and what
        it says stands in the conversation from then on. Such turns of all rows are batched together.
        """
        replies: dict[str, list[Reply]] = {row.id: [] for row in rows}
        waiting = list(rows)
        finished: dict[str, Case] = {}
        while waiting:
            asked = [_first_open_turn(row) for row in waiting]
            prompts = [self.chat.prompt(row) for row in asked]
            spoken = self.speaker.generate(prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)
            still = []
            for row, now, prompt, said in zip(waiting, asked, prompts, spoken, strict=True):
                reply = self._reply(now, prompt, said)
                replies[row.id].append(reply)
                if now is row:
                    finished[row.id] = Case(row, tuple(replies[row.id]))
                else:
                    still.append(_with_answer(row, reply.generation.text))
            waiting = still
        return [replace(finished[row.id], row=row) for row in rows]

    def _reply(self, row: Row, prompt: Prompt, said: Continuation) -> Reply:
        found, first = self.chat.continue_with(prompt, said.tokens), len(prompt.ids)
        images = tuple(path.relative_to(self.folder).as_posix() for path in prompt.images)
        generation = Generation(
            model=self.name,
            id=row.id,
            role=row.role,
            prompt=prompt.text,
            text=self._decoded(said.tokens),
            tokens=said.tokens,
            image=images[-1] if images else None,
            gates=said.gates,
        )
        reasoning, answer = (
            None
            if span is None
            else self._decoded(said.tokens[span.start - first : span.stop - first]).strip()
            for span in (found.reasoning, found.answer)
        )
        closed = found.reasoning is not None and found.answer is not None
        chain = said.tokens[: found.reasoning.stop - first] if closed and found.reasoning else said.tokens
        return Reply(generation, reasoning, answer, chain, images)

    def _decoded(self, ids: Sequence[int]) -> str:
        return self.speaker.tokenizer.decode(list(ids), skip_special_tokens=True)


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
    """The row with its first open turn answered; a reply without a word stands in the conversation as ``...``."""
    index = next(index for index, turn in enumerate(row.history) if turn.answer is None)
    answered = Turn(
        row.history[index].question, text if text.strip() else SILENCE, None, row.history[index].image
    )
    return replace(row, history=(*row.history[:index], answered, *row.history[index + 1 :]))
