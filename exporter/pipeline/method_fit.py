"""One method fitted: the program with its canary, or the edit, and the fingerprint of the weights it was found on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from exporter import registry
from exporter.errors import CompileError
from exporter.fitted import Fitted
from exporter.fitting.canary import with_canary
from exporter.fitting.context import FitContext
from exporter.weight_edit import EditedBase, WeightEdit


def fitted(
    context: FitContext,
    method: str,
    params: Mapping[str, object],
    fingerprint: str,
    base: Callable[[], EditedBase],
) -> Fitted:
    """What a method finds, by its name; what the report shows of the fit lies in ``context.records``.

    Args:
        fingerprint: of the weights that the context's model was loaded from.
        base: reads what a weight edit notes of them.

    Raises:
        CompileError: the files of the base were changed during the fit.
        FitError, DataError: the rows or the model do not let the method find anything.
    """
    chosen = registry.resolve(registry.METHODS, "method", method)
    context = replace(context, params=chosen.Params.model_validate(params))
    found: Fitted = chosen().fit(context)
    if not isinstance(found, WeightEdit):
        return with_canary(context, found).with_fingerprint(fingerprint)
    if (now := base()).fingerprint != fingerprint:
        raise CompileError("the files of the base were changed during the fit; fit again")
    return found.bound_to(now)
