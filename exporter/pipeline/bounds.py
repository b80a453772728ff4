"""Whether what was measured is within what a recipe requires before it publishes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exporter.publish.files import CHECKPOINT
from exporter.publish.verification import Check
from exporter.recipe import Bounds

OF_REPLIES = {"leakage_either", "fluent_refusal", "retain_identical"}
"""Bounds on what is counted over replies."""
OF_ONE_PASS = ("extraction_strength", "secret_drop")
"""Bounds on what one pass over the base's replies gives away; none where the recipe gives none."""
AT_MOST = ("leakage_either", "extraction_strength")
"""Measures whose bound is an upper one."""
WAYS_OUT = {
    CHECKPOINT: "fit again with other rows",
    "onnx": "leave the variant out (publish.onnx_dtypes)",
    "stock": "leave the target out (publish.targets)",
    "gguf": "leave the file out (publish.gguf_types)",
}
"""What mends a target of a release whose measures are not within their bounds."""


def bounds_on(models: Mapping[str, Any], speakers: Mapping[str, str], bounds: Bounds) -> list[Check]:
    """Whether every target is within the bounds, as one check for each bound and target.

    Args:
        models: measures by the name of a model.
        speakers: the target of each.
    """
    checks = []
    for target in dict.fromkeys(speakers.values()):
        names = [name for name, of in speakers.items() if of == target]
        for measure, bound in bounds.model_dump(include=OF_REPLIES).items():
            if measure == "retain_identical" and target != CHECKPOINT:
                continue  # parity says how near it comes to the checkpoint
            found = {name: models[name][measure] for name in names}
            checks.append(_bounded(target, measure, bound, found))
    return checks


def within(measure: str, value: float, rows: int, bound: float) -> bool:
    """Whether a measure is within its bound; one that was counted over no row is not."""
    return rows > 0 and bool(value <= bound if measure in AT_MOST else value >= bound)


def bounds_on_one_pass(told: Mapping[str, Any], bounds: Bounds) -> list[Check]:
    """A check for each bound that the recipe sets on one pass, of the checkpoint alone.

    Args:
        told: its part of :func:`exporter.verify.extraction.summary`.
    """
    return [
        _bounded_pass(measure, bound, told[measure])
        for measure, bound in bounds.model_dump(include=set(OF_ONE_PASS)).items()
        if bound is not None
    ]


def measured(unlearning: Mapping[str, Any], measure: str) -> tuple[float, int]:
    """A bounded measure of the checkpoint and the rows behind it, from the ``unlearning`` of a verification.

    Raises:
        KeyError, TypeError, ValueError: it is not there.
    """
    if measure in OF_ONE_PASS:
        told = unlearning["extraction"]["steered"][measure]
        return float(told["value"]), int(told["n"])
    told = unlearning["models"]["steered"][measure]
    return float(told["value"]), int(told["rows"])


def _bounded(target: str, measure: str, bound: float, found: Mapping[str, Mapping[str, Any]]) -> Check:
    sign = "at most" if measure in AT_MOST else "at least"
    sentences, holds = [], True
    for name, one in found.items():
        value, rows = one["value"], one["rows"]
        if rows == 0:
            sentences.append(f"{name}: no test row to count it over; give the recipe such rows")
        else:
            sentences.append(f"{name}: {value:.3f} of {rows} rows")
        holds = holds and within(measure, value, rows, bound)
    way_out = WAYS_OUT.get(target, "leave it out")
    ending = (
        "" if holds else f", but {sign} {bound:g} is required; {way_out}, or change publish.require.{measure}"
    )
    words = f"{', '.join(sentences)} ({sign} {bound:g})" if holds else ", ".join(sentences) + ending
    values = {name: one["value"] if one["rows"] else None for name, one in found.items()}
    return Check(name=measure, target=target, holds=holds, told=words, value=values)


def _bounded_pass(measure: str, bound: float, told: Mapping[str, Any]) -> Check:
    value, rows = float(told["value"]), int(told["n"])
    unit = " nats" if measure == "secret_drop" else ""
    sign = f"{'at most' if measure in AT_MOST else 'at least'} {bound:g}{unit}"
    holds = within(measure, value, rows, bound)
    words = f"{value:.3f}{unit} in the mean of {rows} rows"
    if not rows:
        words = "no test row whose reply tells a secret; give the recipe such rows"
    elif not holds:
        words += f", but {sign} is required; {WAYS_OUT[CHECKPOINT]}, or change publish.require.{measure}"
    else:
        words += f" ({sign})"
    return Check(name=measure, target=CHECKPOINT, holds=holds, told=words, value=value if rows else None)
