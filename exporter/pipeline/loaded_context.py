"""What a loaded model is worked on with: rows in parts, host and chat, and the state that it is put into and back from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import BaseModel

from exporter.data.chat import Chat
from exporter.fitting.context import FitContext
from exporter.host import ModelHost
from exporter.pipeline.given_rows import RowsLike, rows_of
from exporter.settings import Settings
from exporter.splits import Splits, set_aside
from exporter.threads import threads_for
from exporter.types import Row
from exporter.vocabulary import check_vocabulary


def parted(rows: RowsLike, calibrate: RowsLike | None, settings: Settings) -> Splits:
    """Rows to fit and to calibrate on: without any for the latter, some are set aside as a recipe does it."""
    fit = rows_of(rows, "rows")
    if calibrate is not None:
        return Splits(tuple(fit), tuple(rows_of(calibrate, "calibrate")), ())
    kept, aside = set_aside(fit, settings.calibrate_fraction, settings.seed)
    return Splits(tuple(kept), tuple(aside), ())


def context_of(
    model: object, processor: object, splits: Splits, params: BaseModel, settings: Settings, work: Path
) -> FitContext:
    """What a fit on a loaded model is handed."""
    return FitContext(
        host=host_of(model, processor),
        chat=chat_of(processor, (*splits.fit, *splits.calibrate), settings),
        fit=splits.fit,
        calibrate=splits.calibrate,
        params=params,
        work=work,
        seed=settings.seed,
        batch_size=settings.batch_size,
        max_new_tokens=settings.max_new_tokens,
        progress=False,
    )


def host_of(model: Any, processor: Any) -> ModelHost:
    """The model with its processor; raises InputErrors or DataError where it lacks ids that the tokenizer makes."""
    host = ModelHost(model, processor)
    check_vocabulary(host, "processor")
    return host


def chat_of(processor: Any, rows: Sequence[Row], settings: Settings) -> Chat:
    """Prompts as the settings want them, for a model that is asked these rows."""
    return Chat(processor, system=settings.system, reasoning_template=settings.template_for(rows))


@contextmanager
def at_rest(model: Any) -> Iterator[None]:
    """The model in eval mode, on as many threads as a run gives it; both are put back."""
    training = [part for part in model.modules() if part.training]
    with threads_for(model):
        model.eval()
        try:
            yield
        finally:
            for part in training:
                part.training = True


@contextmanager
def working(work: Path | None) -> Iterator[Path]:
    """The folder for states and the model's own replies; without one, a folder for as long as needed."""
    if work is not None:
        yield Path(work)
        return
    with TemporaryDirectory(prefix="steerbake-") as name:
        yield Path(name)
