"""One method fitted: the program that it finds, with its canary and the fingerprint of the weights it was found on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from exporter import registry
from exporter.fitting.canary import with_canary
from exporter.fitting.context import FitContext
from steer_modules.program import SteeringProgram


def fitted(
    context: FitContext, method: str, params: Mapping[str, object], fingerprint: str
) -> SteeringProgram:
    """The program of a method by its name; what the report shows of the fit lies in ``context.records``.

    Raises:
        FitError, DataError: the rows or the model do not let the method find one.
    """
    chosen = registry.resolve(registry.METHODS, "method", method)
    context = replace(context, params=chosen.Params.model_validate(params))
    found: SteeringProgram = with_canary(context, chosen().fit(context))
    return found.with_fingerprint(fingerprint)
