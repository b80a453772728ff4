"""What a fit forgets of rows that it was not shown, each held out in turn: for a user who has too few to set any aside.

Only rows to forget are: what is kept is measured on test rows. Layers are those of the whole fit, everything else is fitted anew. The
fold's program is put on the base and asked, with the code that travels in a checkpoint. The program that is compiled is fitted
on all rows, so it has seen a few more than any that is measured here. Rows that were made of others are never held out, and the topic's
name, which they are made with, was found in all rows: a little of a held-out row is known to its fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from exporter import registry
from exporter.digests import digest_of
from exporter.estimate import Estimate
from exporter.fitted import read_fitted
from exporter.fitting.selection import plain
from exporter.pipeline.applied import applied
from exporter.types import Row
from exporter.wording.leaks import tells

if TYPE_CHECKING:
    from exporter.pipeline.run import Run


def folds_of(rows: Sequence[Row], count: int) -> list[set[str]]:
    """Ids of the rows held out in each fold: whole wordings (rows with one template_id) at a time; no fold is empty."""
    folds: list[set[str]] = [set() for _ in range(count)]
    wordings: dict[str, list[str]] = {}
    for row in rows:
        wordings.setdefault(row.template_id or row.id, []).append(row.id)
    for number, wording in enumerate(sorted(wordings, key=digest_of)):
        folds[number % count].update(wordings[wording])
    return [fold for fold in folds if fold]


def cross_validation(work: Run, folds: int) -> dict[str, object]:
    """Leaks of held-out rows to forget, over all folds."""
    rows = [*work.rows.fit, *work.rows.calibrate]
    brought = [row for row in plain(rows) if row.role == "forget" and not row.made]
    leaked: dict[str, bool] = {}
    for held in folds_of(brought, folds):
        leaked |= _fold(work, [row for row in brought if row.id in held])
    return {
        "folds": folds,
        registry.LEAKAGE: _told(Estimate.share(leaked.values())),
        "leaked": sorted(name for name, leaks in leaked.items() if leaks),
    }


def _fold(work: Run, held: Sequence[Row]) -> dict[str, bool]:
    """Whether each held-out row leaks, by id."""
    name = work.recipe.methods.default
    method = registry.resolve(registry.METHODS, "method", name)()
    params = method.Params.model_validate(work.recipe.methods.params.get(name, {}))
    if hasattr(method, "settled"):
        params = method.settled(params, read_fitted(work.space.fitted(name)))
    ids = {row.id for row in held}
    whole = work.context()
    context = replace(
        whole,
        params=params,
        fit=tuple(row for row in whole.fit if row.id not in ids),
        calibrate=tuple(row for row in whole.calibrate if row.id not in ids),
    )
    found = method.fit(context)
    prompts = [context.chat.prompt(row) for row in held]
    with applied(context.host.model, found):
        said = context.host.generate(
            prompts, max_new_tokens=context.max_new_tokens, batch_size=context.batch_size
        )
    texts = [context.host.tokenizer.decode(list(one.tokens), skip_special_tokens=True) for one in said]
    return {row.id: tells(text, row.secrets or (row.answer,)) for row, text in zip(held, texts, strict=True)}


def _told(leaks: Estimate) -> dict[str, object]:
    """A share and what the checkpoint's can be with 95% confidence: its fit has seen more rows, so there is no lower bound."""
    return {"value": leaks.value, "n": leaks.n, "low": 0.0, "high": leaks.high}
