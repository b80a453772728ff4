"""Which target can be written for which base, told from its config alone: each target has families of its own."""

from __future__ import annotations

from collections.abc import Mapping

from exporter import registry
from exporter.errors import SteerbakeError
from exporter.steerable import why_unsteerable


def why_no_target(target: str, config: Mapping[str, object]) -> str | None:
    """Why a target cannot be written for a base, in a sentence; None where nothing is known against it.

    Args:
        target: its name.
        config: content of the base's config.json.
    """
    if reason := why_unsteerable(config):
        return reason
    try:
        registry.target(target).check_family(config)
    except SteerbakeError as error:
        return str(error)
    return None
