"""Which target can be written for which base, told from its config alone: each target has families of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exporter.errors import SteerbakeError
from exporter.steerable import why_unsteerable
from exporter.targets.onnx.families import family_of
from exporter.targets.stock.decoder import check_kind


def why_no_target(target: str, config: Mapping[str, Any]) -> str | None:
    """Why a target cannot be written for a base, in a sentence; None where nothing is known against it.

    Args:
        target: ``checkpoint``, ``onnx``, ``stock`` or ``gguf``.
        config: content of the base's config.json.
    """
    if reason := why_unsteerable(config):
        return reason
    try:
        if target == "onnx":
            family_of(str(config["model_type"]))
        if target in ("stock", "gguf"):
            check_kind(config)
    except SteerbakeError as error:
        return str(error)
    if target == "gguf" and ("text_config" in config or "vision_config" in config):
        return f"a model of type {config['model_type']!r} sees images, and a GGUF file holds its text decoder only; export onnx"
    return None
