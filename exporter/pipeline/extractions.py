"""What one pass over the base's own replies gives away of a run's models."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from exporter.atomic import write_text
from exporter.data.chat import Chat
from exporter.evaluation.case import Case
from exporter.evaluation.extraction import Extraction, Reference, extracted, references
from exporter.evaluation.report import BASE
from exporter.evaluation.whole_pass import whole_pass
from exporter.pipeline.answered_by import note_files
from exporter.provenance import HOST, digest_of_code
from exporter.splits import digest_of_rows
from exporter.types import Encoded

if TYPE_CHECKING:
    from exporter.host import ModelHost
    from exporter.pipeline.run import Run

ONE_PASS = ("exporter/evaluation", "exporter/wording", "exporter/data", *HOST, "steer_modules")
"""Code that decides which tokens tell a secret, and how likely they are."""


def extraction(work: Run, model: str) -> list[Extraction]:
    """Every forget row of the run on the base, or on one method's compiled checkpoint; done once."""
    path = work.space.extraction(model)
    folder = None if model == BASE else work.space.checkpoint(model, work.recipe.methods.default)
    inputs = {
        **work.model_inputs,
        "rows": digest_of_rows(work.test),
        "steering": None if model == BASE else work.found(model).sha256,
        "said": [case.last.generation.tokens for case in work.generate(BASE)],
        "code": digest_of_code(*ONE_PASS),
    }

    def measure() -> None:
        steered = None if folder is None else work.steered(model)
        host = work.host if steered is None else steered.host
        write_text(path, json.dumps([list(one) for one in extraction_of(work, host)]))
        if steered is not None and steered.files is not None:
            note_files(path, steered.files)

    work.space.ledger.run(f"extraction-{model}", inputs, path, measure)
    return [Extraction(*one) for one in json.loads(path.read_text(encoding="utf-8"))]


def extraction_of(work: Run, host: ModelHost, rows: Collection[str] | None = None) -> list[Extraction]:
    """The same of any model, on some of the rows by id."""
    found = references_in(work.generate(BASE), work.chat(host.processor))
    some = [one for one in found if rows is None or one.row in rows]
    return extraction_on(host, some, batch_size=work.recipe.report.batch_size)


def extraction_on(host: ModelHost, some: Sequence[Reference], *, batch_size: int) -> list[Extraction]:
    """What one pass over reference replies gives away of a model."""
    return extracted(some, whole_pass(host, [one.sequence for one in some], batch_size=batch_size))


def references_in(base: Sequence[Case], chat: Chat) -> list[Reference]:
    """The replies to force on every model, from what the unsteered base says."""

    def decode(tokens: Sequence[int]) -> str:
        return str(
            chat.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    return references(
        base,
        forced=chat.encode,
        own=lambda case: Encoded(chat.prompt(case.row), case.last.generation.tokens),
        decode=decode,
    )
