"""One method fitted: the program with its canary, or the edit, and the fingerprint of the weights it was found on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from exporter import registry
from exporter.fitted import Fitted
from exporter.fitting.canary import with_canary
from exporter.fitting.context import FitContext
from exporter.weight_edit import WeightEdit


def fitted(context: FitContext, method: str, params: Mapping[str, object], fingerprint: str) -> Fitted:
    """What a method finds, by its name; what the report shows of the fit lies in ``context.records``.

    Raises:
        FitError, DataError: the rows or the model do not let the method find anything.
    """
    chosen = registry.resolve(registry.METHODS, "method", method)
    context = replace(context, params=chosen.Params.model_validate(params))
    found: Fitted = chosen().fit(context)
    found = found if isinstance(found, WeightEdit) else with_canary(context, found)
    return found.with_fingerprint(fingerprint)
