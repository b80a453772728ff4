"""The input of a method's ``fit``: the model, the rows of two splits, parameters, and a work folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from pydantic import BaseModel

from exporter.errors import DataError
from exporter.fitting.activations import Activations, collect, model_digest, store_of
from exporter.fitting.own_replies import OwnReplies
from exporter.fitting.pooling import PooledSequence
from exporter.host import Generated, ModelHost
from exporter.types import Encoded, Prompt, Role, Row, Turn
from steer_modules.program import BaseModelRef, Edit, Gate, SteeringProgram

T = TypeVar("T")


class ChatFormat(Protocol):
    """How rows become token ids, and generated ids become texts (``exporter.data.chat.Chat``)."""

    @property
    def headers(self) -> tuple[tuple[int, ...], ...]: ...

    @property
    def takes_system(self) -> bool: ...

    def prompt(self, row: Row, *, question: str | None = None) -> Prompt: ...

    def encode(
        self,
        row: Row,
        *,
        answer: str | None = None,
        reasoning: str | None = None,
        question: str | None = None,
    ) -> Encoded: ...

    def continue_with(self, prompt: Prompt, ids: Sequence[int]) -> Encoded: ...

    def split(self, ids: Sequence[int]) -> tuple[str | None, str]: ...

    def tokenize(self, text: str, images: Sequence[Path] = ()) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class FitContext:
    """Inputs of a fit. ``calibrate`` rows choose thresholds, layers and strengths; test rows never come here.

    Attributes:
        work: folder for spilled states and the model's own generations; reused (and resumed) where a request recurs.
        max_new_tokens: length of generations, the model's own and those of trials.
        records: tables for the report, by name; methods append to them.
        kept: blocks whose states are stored beside those that are asked for. Given where this fit is one of many on the same rows: no
            sequence is then run for each of them, and trials are replayed (:mod:`exporter.fitting.replay`).
        remembered: what :meth:`once` has made, for all of those fits.
        read: blocks that gates of any of those fits may read, for the replays.
    """

    host: ModelHost
    chat: ChatFormat
    fit: tuple[Row, ...]
    calibrate: tuple[Row, ...]
    params: BaseModel
    work: Path
    seed: int = 0
    batch_size: int = 32
    max_new_tokens: int = 64
    progress: bool = True
    records: dict[str, list[dict[str, object]]] = field(default_factory=dict[str, list[dict[str, object]]])
    kept: tuple[int, ...] = ()
    read: tuple[int, ...] = ()
    remembered: dict[Hashable, object] = field(default_factory=dict[Hashable, object])

    def rows(self, split: str, *roles: Role) -> tuple[Row, ...]:
        """Rows of one split ("fit" or "calibrate") with one of the roles, in file order; each paraphrase is a row."""
        found: list[Row] = []
        for row in getattr(self, split):
            if row.role in roles:
                found.append(replace(row, paraphrases=()))
                found += [
                    replace(row, id=f"{row.id}~{number}", question=question, paraphrases=(), template_id=None)
                    for number, question in enumerate(row.paraphrases, start=1)
                ]
        return tuple(found)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` makes of rows and model alone: once for all fits on them, where this is one of many.

        Args:
            key: everything that it is made from, beside rows, model and seed.
        """
        if not self.kept:
            return make()
        if key not in self.remembered:
            self.remembered[key] = make()
        return cast("T", self.remembered[key])

    def record(self, table: str, **values: object) -> None:
        """Append one line to a table of the report."""
        self.records.setdefault(table, []).append(values)

    def collect(self, items: Sequence[PooledSequence], layers: Sequence[int], title: str) -> Activations:
        """Pooled states of the unsteered base (see :func:`exporter.fitting.activations.collect`)."""
        every = tuple(sorted({*self.kept, *layers}) if self.kept else layers)
        folder = self.work / "states"
        store = self.once(("store", every), lambda: store_of(self.host, every, folder)) if self.kept else None
        found = collect(
            self.host,
            items,
            every,
            folder,
            batch_size=self.batch_size,
            progress=self.progress,
            title=title,
            store=store,
        )
        return replace(found, asked=tuple(layers)) if self.kept else found

    def own(self, prompts: Sequence[Prompt]) -> list[Generated]:
        """The unsteered base's greedy continuations, remembered in ``work`` by content."""
        head = [model_digest(self.host.model), str(self.host.dtype), self.max_new_tokens]
        name = hashlib.sha256(json.dumps(head).encode()).hexdigest()[:32]
        replies = OwnReplies(self.work / "own" / f"{name}.jsonl")
        return replies.of(prompts, self._say)

    def _say(self, prompts: Sequence[Prompt]) -> list[Generated]:
        return self.host.generate(prompts, max_new_tokens=self.max_new_tokens, batch_size=self.batch_size)

    def filled(self, rows: Sequence[Row]) -> list[Row]:
        """Rows whose earlier turns all have answers: a turn without one is answered by the unsteered base."""
        rows = list(rows)
        while True:
            open_turns = {i: _first_open(row) for i, row in enumerate(rows)}
            wanted = [(i, turn) for i, turn in open_turns.items() if turn is not None]
            if not wanted:
                return rows
            said = self.own([self.chat.prompt(_up_to(rows[i], turn)) for i, turn in wanted])
            for (i, turn), generated in zip(wanted, said, strict=True):
                reasoning, answer = self.chat.split(generated.tokens)
                history = list(rows[i].history)
                history[turn] = replace(history[turn], answer=answer, reasoning=reasoning)
                rows[i] = replace(rows[i], history=tuple(history))

    def decision(self, prompt: Prompt) -> int:
        """Column of a prompt at which a gate with a header pool decides last: where its last generation header ends.

        A prompt in which no header is found (a test's chat may have none) decides at its end.
        """
        ids = prompt.ids
        ends = [
            stop
            for header in self.chat.headers
            for stop in range(len(header), len(ids) + 1)
            if ids[stop - len(header) : stop] == tuple(header)
        ]
        return max(ends, default=len(ids)) - 1

    def program(self, method: str, gates: Sequence[Gate], edits: Sequence[Edit]) -> SteeringProgram:
        """A program for this model; compile fills in the fingerprint."""
        return SteeringProgram(
            method=method,
            hidden_size=self.host.hidden_size,
            num_layers=self.host.num_layers,
            base=BaseModelRef(self.host.architecture, self.host.model_type),
            headers=self.chat.headers,
            gates=tuple(gates),
            edits=tuple(sorted(edits, key=lambda edit: edit.layer)),
        )

    def need(self, split: str, *roles: Role) -> tuple[Row, ...]:
        """Like :meth:`rows`, but raises an error that names the missing roles if there are none."""
        found = self.rows(split, *roles)
        if not found:
            raise DataError(
                f"the {split} rows contain no row of role {' or '.join(roles)}, which this method needs; add some"
            )
        return found


def _first_open(row: Row) -> int | None:
    return next((i for i, turn in enumerate(row.history) if turn.answer is None), None)


def _up_to(row: Row, turn: int) -> Row:
    """The row as it stood when earlier turn number ``turn`` was asked."""
    asked: Turn = row.history[turn]
    return replace(row, question=asked.question, image=asked.image, history=row.history[:turn], prefix=None)
