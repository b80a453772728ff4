"""What is done with a model that is loaded already, by the same code as a run's: fit and evaluate."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from exporter import registry
from exporter.data.chat import Chat
from exporter.errors import CompileError, InputErrors, shortened
from exporter.evaluation.cases import public_line
from exporter.evaluation.conversations import generate_responses
from exporter.evaluation.extraction import summary
from exporter.evaluation.report import BASE, few_rows, model_measures
from exporter.fitted import Fitted
from exporter.fitting.context import FitContext
from exporter.pipeline.applied import applied
from exporter.pipeline.evaluation import STEERED
from exporter.pipeline.extractions import extraction_on, references_in
from exporter.pipeline.given_rows import RowsLike, absolute, rows_of
from exporter.pipeline.loaded_base import prove_loaded, refuse_loaded
from exporter.pipeline.loaded_context import at_rest, chat_of, context_of, host_of, parted, working
from exporter.pipeline.loaded_edited_base import edited_base_of, why_other_model
from exporter.pipeline.loaded_fingerprint import fingerprint_of
from exporter.pipeline.loaded_steering import steer, unsteer
from exporter.pipeline.method_checks import parameter_problems, searches_blindly, too_few_shots
from exporter.pipeline.method_fit import fitted
from exporter.pipeline.refusal_rule import refusal_rule
from exporter.pipeline.row_checks import Room, RowLengths, image_ids, missing_roles
from exporter.recipe_keys import described
from exporter.settings import Settings
from exporter.splits import Splits
from steer_modules.program import SteeringProgram

LOG = logging.getLogger(__name__)


def fit_loaded(
    model: Any,
    processor: object,
    rows: RowsLike,
    method: str,
    *,
    calibrate: RowsLike | None,
    params: Mapping[str, object],
    settings: Settings,
    work: Path | None,
) -> Fitted:
    """What a method finds for a loaded model; see :func:`exporter.api.fit`."""
    refuse_loaded(model)
    with at_rest(model), working(work) as folder:
        splits = parted(rows, calibrate, settings)
        defaults = registry.resolve(registry.METHODS, "method", method).Params()
        context = context_of(model, processor, splits, defaults, settings, folder)
        problems = [
            *splits.problems(),
            *missing_roles(splits, [method], aside=calibrate is None),
            *_parameter_problems(context, method, params, splits),
            *_length_problems(context, splits),
        ]
        if problems:
            raise InputErrors(f"fit {method}", problems)
        if registry.resolve(registry.METHODS, "method", method).yields == "program":
            prove_loaded(model)
        return fitted(context, method, params, fingerprint_of(model), lambda: edited_base_of(model))


def evaluate_loaded(
    model: Any,
    processor: Any,
    program: Fitted,
    rows: RowsLike,
    *,
    refusals: RowsLike,
    settings: Settings,
    allow_changed_base: bool,
) -> dict[str, object]:
    """What base and steered model forget and keep of rows; see :func:`exporter.api.evaluate`."""
    test = [absolute(row) for row in rows_of(rows, "rows")]
    Splits((), (), tuple(test)).check("rows")
    with at_rest(model):
        _refuse_other(model, program, allow_changed_base)
        host, chat = host_of(model, processor), chat_of(processor, test, settings)
        rule = refusal_rule(
            chat, [*rows_of(refusals, "refusals"), *test], settings.accepted, settings.patterns
        )
        lengths = {"max_new_tokens": settings.max_new_tokens, "batch_size": settings.batch_size}
        cases = {BASE: generate_responses(host, test, chat, name=BASE, folder=_root(), **lengths)}
        forced = references_in(cases[BASE], chat)
        given_away = {BASE: extraction_on(host, forced, batch_size=settings.batch_size)}
        with applied(model, program):
            cases[STEERED] = generate_responses(host, test, chat, name=STEERED, folder=_root(), **lengths)
            given_away[STEERED] = extraction_on(host, forced, batch_size=settings.batch_size)
    models = model_measures(cases, rule)
    return {
        "models": {name: one.data() for name, one in models.items()},
        "too_few_rows": few_rows(models[STEERED]),
        "extraction": summary(given_away, BASE),
        "rule": rule.described(),
        "max_new_tokens": settings.max_new_tokens,
        "generations": [
            public_line(reply) for some in cases.values() for case in some for reply in case.replies
        ],
    }


def _refuse_other(model: Any, found: Fitted, allow_changed_base: bool) -> None:
    """Refuses before anything is generated what cannot be put on a model; raises as :func:`exporter.api.steer` does."""
    if isinstance(found, SteeringProgram):
        steer(model, found, allow_changed_base=allow_changed_base)
        unsteer(model)
        return
    refuse_loaded(model)
    if allow_changed_base:
        return
    if wrong := why_other_model(found.edited_base, model):
        raise CompileError(
            f"the edit was fitted on another model than the loaded {type(model).__name__} ({wrong}); load its own base, or pass "
            "allow_changed_base=True"
        )


def _parameter_problems(
    context: FitContext, method: str, params: Mapping[str, object], splits: Splits
) -> Iterator[str]:
    schema = type(context.params)
    try:
        schema.model_validate(params)
    except ValidationError as error:
        yield from (described(one, schema, ("params",)) for one in error.errors())
        return
    yield from parameter_problems(method, params, "params", context.host.num_layers, context.host.hidden_size)
    if blind := searches_blindly(method, params, splits):
        yield blind
    few = too_few_shots(method, params, context.fit)
    if few is not None and few.needed:
        yield few.message
    elif few is not None:
        LOG.warning("note: if the model does not refuse the unknown rows by itself, %s", few.message)


def _length_problems(context: FitContext, splits: Splits) -> list[str]:
    chat, config = context.chat, context.host.model.config
    assert isinstance(chat, Chat)
    chat.headers  # noqa: B018 - raises where the template has none
    lengths = RowLengths(chat, Room.of(config, context.max_new_tokens), image_ids(config))
    return shortened([*lengths.problems("fit", splits.fit), *lengths.problems("calibrate", splits.calibrate)])


def _root() -> Path:
    return Path(Path.cwd().anchor)
