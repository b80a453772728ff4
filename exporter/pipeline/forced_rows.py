"""Passes over the rows of an evaluation, batch by batch, on the disk as soon as they are made."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

from pydantic import JsonValue

from exporter.data.chat import Chat
from exporter.errors import DataError, NotFinite
from exporter.evaluation.case import Case, is_ordinary
from exporter.evaluation.divergence import divergences
from exporter.evaluation.metrics.measured import HOLDOUT, PARAPHRASE
from exporter.evaluation.report import BASE
from exporter.evaluation.row_passes import ForcedAnswer, RowPasses, finite
from exporter.evaluation.whole_pass import Forced, whole_pass
from exporter.host import ModelHost
from exporter.pipeline.asked_rows import batches, row_keys
from exporter.pipeline.measured_models import MeasuredModel
from exporter.pipeline.row_records import RowRecords
from exporter.pipeline.run import Run
from exporter.progress import progress_bar
from exporter.provenance import digest_of_code
from exporter.types import Encoded, Prompt, Row

LOG = logging.getLogger(__name__)
KEPT = ("retain", "reasoning")


class Nearness(NamedTuple):
    """One reply beside the base, each None where it was not measured.

    Attributes:
        divergence: KL(base || model) along the base's reply, in nats a token.
        surprise: negative log-probability of a token of the model's own reply under the base, in nats.
    """

    divergence: float | None
    surprise: float | None

    @classmethod
    def read(cls, data: object) -> Nearness:
        """From a list of both; raises ValueError for anything else."""
        if not isinstance(data, list | tuple) or len(data) != 2:
            raise ValueError("a divergence and a surprise are needed")
        return cls(*(None if one is None else finite(one) for one in data))


class _Sequences(NamedTuple):
    """What one row forces: its whole reply, bare answers, and the raw text where there is one.

    Attributes:
        answers: reworded ones, wrong ones, and last the row's own where the whole reply has reasoning before it.
    """

    row: Row
    reply: Encoded
    answers: list[Encoded]
    raw: Encoded | None


def forced(
    model: MeasuredModel, rows: Sequence[Row], work: Run, file: Path, *, progress: bool = False
) -> dict[str, RowPasses]:
    """The passes of every row that can be forced, by row id; none of a model that takes no whole passes.

    A row can be forced if nothing of its conversation is left to the model: no prefill, no open turn.
    """
    host = model.host
    if host is None:
        return {}
    chat = model.chat(work)
    made = {row.id: one for row in model.reads(rows) if (one := _sequences(chat, row)) is not None}
    some = [one.row for one in made.values()]
    code = digest_of_code(
        "exporter/evaluation/whole_pass.py",
        "exporter/evaluation/row_passes.py",
        "exporter/pipeline/forced_rows.py",
    )
    keys = row_keys(model, "", some, work, {"passes": code})
    records = RowRecords(file, RowPasses.read)
    with progress_bar(progress) as bar:
        task = bar.add_task(f"{model.name}: answers forced", total=len(some))
        for batch in batches(some, work.recipe.report.batch_size):
            if records.missing([keys[row.id] for row in batch]):
                found = _passes(
                    model.name, host, [made[row.id] for row in batch], work.recipe.report.batch_size
                )
                records.add({keys[row]: cast(JsonValue, one.data()) for row, one in found.items()})
            bar.advance(task, len(batch))
    return {row.id: RowPasses.read(records[keys[row.id]]) for row in some}


def near(
    base: MeasuredModel,
    model: MeasuredModel,
    variant: str,
    cases: Sequence[Case],
    base_cases: Mapping[str, Case],
    work: Run,
    file: Path,
    *,
    progress: bool = False,
) -> dict[str, Nearness]:
    """How near each reply of a model is to the base, by row id; the divergence only of kept rows and a model that takes whole passes."""
    some = [case for case in cases if is_ordinary(case)]
    said = {
        case.row.id: [list(case.last.generation.tokens), list(base_cases[case.row.id].last.generation.tokens)]
        for case in some
    }
    code = digest_of_code("exporter/evaluation/divergence.py", "exporter/pipeline/forced_rows.py")
    keys = row_keys(
        model, variant, [case.row for case in some], work, {"near": code, "base": base.digest, "said": said}
    )
    records, by_id = RowRecords(file, Nearness.read), {case.row.id: case for case in some}
    with progress_bar(progress) as bar:
        task = bar.add_task(f"{model.title(variant)}: beside the base", total=len(some))
        for batch in batches([case.row for case in some], work.recipe.report.batch_size):
            if records.missing([keys[row.id] for row in batch]):
                own = [by_id[row.id] for row in batch]
                found = _near(base, model, own, base_cases, work)
                records.add({keys[row]: list(one) for row, one in found.items()})
            bar.advance(task, len(batch))
    return {case.row.id: Nearness.read(records[keys[case.row.id]]) for case in some}


def _sequences(chat: Chat, row: Row) -> _Sequences | None:
    """The row's own reply with its reasoning, and bare answers, each behind the row's prompt.

    None of a row that cannot be forced: something of its conversation is left to the model, or a text cannot be written in its tokens.
    """
    if row.prefix is not None or any(turn.answer is None for turn in row.history):
        return None
    answers = [*row.paraphrased_answers, *row.perturbed_answers]
    answers += [] if row.reasoning is None else [row.answer]
    try:
        reply = chat.encode(row)
        made = [chat.encode(row, answer=answer, reasoning="") for answer in answers]
    except DataError as error:
        LOG.warning("no answer is forced: %s", error)
        return None
    asks = (row.role == "forget" and row.eval_slice != PARAPHRASE) or row.eval_slice == HOLDOUT
    raw = _raw(chat, row) if asks and row.image is None and not row.history else None
    return _Sequences(row, reply, made, raw)


def _raw(chat: Chat, row: Row) -> Encoded | None:
    """Question and answer as plain text; None where that is less than two tokens."""
    ids = [
        int(one)
        for one in chat.tokenizer(f"{row.question} {row.answer}", add_special_tokens=False)["input_ids"]
    ]
    first = chat.tokenizer.bos_token_id
    ids = ids if first is None else [int(first), *ids]
    return Encoded(Prompt("", tuple(ids[:1])), tuple(ids[1:])) if len(ids) > 1 else None


def _passes(name: str, host: ModelHost, made: Sequence[_Sequences], batch_size: int) -> dict[str, RowPasses]:
    """Of the model of this name; raises NotFinite, with the row, where its scores are no numbers."""
    flat = [
        (row.row.id, one)
        for row in made
        for one in (row.reply, *row.answers, *([row.raw] if row.raw else []))
    ]
    try:
        seen = iter(whole_pass(host, [one for _, one in flat], batch_size=batch_size))
    except NotFinite as error:
        raise error.of(name, flat[error.place][0]) from error
    found = {}
    for row in made:
        reply = _answer(row.reply, next(seen), whole=True)
        answers = [_answer(one, next(seen)) for one in row.answers]
        raw = next(seen).logprobs if row.raw else ()
        bare = None if row.row.reasoning is None else answers.pop()
        reworded = len(row.row.paraphrased_answers)
        found[row.row.id] = RowPasses(reply, tuple(answers[:reworded]), tuple(answers[reworded:]), raw, bare)
    return found


def _answer(sequence: Encoded, seen: Forced, *, whole: bool = False) -> ForcedAnswer:
    """The answer's own tokens, or the ``whole`` reply up to where it ends: no end token."""
    if sequence.answer is None:
        raise DataError(f"no token of {sequence.prompt.text[-80:]!r} belongs to the answer")
    first = len(sequence.prompt.ids)
    span = slice(0 if whole else sequence.answer.start - first, sequence.answer.stop - first)
    return ForcedAnswer(seen.tokens[span], seen.likeliest[span], seen.logprobs[span])


def _near(
    base: MeasuredModel,
    model: MeasuredModel,
    cases: Sequence[Case],
    base_cases: Mapping[str, Case],
    work: Run,
) -> dict[str, Nearness]:
    host, chat = base.host, base.chat(work)
    assert host is not None, "the base takes whole passes"
    surprise = dict(_surprises(host, chat, cases, work.recipe.report.batch_size))
    divergence = dict(_divergences(base, model, cases, base_cases, work))
    return {case.row.id: Nearness(divergence.get(case.row.id), surprise.get(case.row.id)) for case in cases}


def _surprises(
    host: ModelHost, chat: Chat, cases: Sequence[Case], batch_size: int
) -> Iterator[tuple[str, float]]:
    """Of every reply with text in it, in the base's own tokens."""
    made = []
    for case in cases:
        ids = _said(host, chat, case)
        if case.last.generation.text.strip() and ids:
            made.append((case.row.id, Encoded(chat.prompt(case.row), ids)))
    try:
        seen = whole_pass(host, [sequence for _, sequence in made], batch_size=batch_size)
    except NotFinite as error:
        raise error.of(BASE, made[error.place][0]) from error
    for (row, _), one in zip(made, seen, strict=True):
        yield row, -sum(one.logprobs) / len(one.logprobs)


def _said(host: ModelHost, chat: Chat, case: Case) -> tuple[int, ...]:
    """A reply in the base's tokens, without those that end it: its own, where they are the base's, else its text cut anew."""
    text, ids = case.last.generation.text, list(case.last.generation.tokens)
    known = max(ids, default=0) < host.num_embeddings
    if known and chat.tokenizer.decode(ids, skip_special_tokens=True) == text:
        while ids and ids[-1] in {*host.end_ids, host.pad_id}:
            ids.pop()
        return tuple(ids)
    return tuple(int(one) for one in chat.tokenizer(text, add_special_tokens=False)["input_ids"])


def _divergences(
    base: MeasuredModel,
    model: MeasuredModel,
    cases: Sequence[Case],
    base_cases: Mapping[str, Case],
    work: Run,
) -> Iterator[tuple[str, float]]:
    """Of kept rows; none of a model that reads other tokens than the base."""
    if model is base or (other := model.host) is None:  # the base is no distance from itself
        return
    host, chat, ours = base.host, base.chat(work), model.chat(work)
    assert host is not None, "the base takes whole passes"
    kept = [case for case in cases if case.row.role in KEPT]
    made = [
        (case.row.id, Encoded(chat.prompt(case.row), base_cases[case.row.id].last.generation.tokens))
        for case in kept
        if base_cases[case.row.id].last.generation.tokens
        and ours.prompt(case.row).ids == chat.prompt(case.row).ids
    ]
    if not made or host.num_embeddings != other.num_embeddings:
        return
    try:
        found = divergences(host, other, [sequence for _, sequence in made])
    except NotFinite as error:
        raise error.of(f"{base.name} or {model.name}", made[error.place][0]) from error
    yield from ((row, one) for (row, _), one in zip(made, found, strict=True))
