"""Which target can be written for which base, told from its config alone: each target has families of its own."""

from __future__ import annotations

from collections.abc import Mapping

from exporter import registry
from exporter.errors import SteerbakeError
from exporter.methods.base import Yields
from exporter.steerable import why_unsteerable


def why_no_target(target: str, config: Mapping[str, object], yields: Yields = "program") -> str | None:
    """Why a target cannot be written for a base, in a sentence; None where nothing is known against it.

    Args:
        target: its name.
        config: content of the base's config.json.
        yields: what the method finds; the base of a weight edit need not be one that can be steered.
    """
    if yields == "program" and (reason := why_unsteerable(config)):
        return reason
    try:
        registry.target(target).check_family(config, yields)
    except SteerbakeError as error:
        return str(error)
    return None
