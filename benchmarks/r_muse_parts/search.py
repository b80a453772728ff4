"""Which combinations are measured: a map of plain steps, then one part after another, then back, one part at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.r_muse_parts.combination import PARTS, Combination

Figures = Mapping[str, Any]
Measured = Callable[[Combination], Figures | None]
"""Figures of a combination, measured or read; None where it cannot be built."""
ORDER = (
    "layer",
    "prototypes",
    "target",
    "positives",
    "pooling",
    "spans",
    "angle",
    "protect",
    "energy",
    "depth",
    "gate",
)
ROUNDS = 2
TIMES = ("1", "2", "4")


def cost(figures: Figures | None) -> float:
    """The cost of a trial and the share of replies without a refusal's answer; what cannot be built costs more than anything.

    By the cost alone all text that is no refusal word for word is alike, and broken text that tells nothing is as good as any.
    """
    return float("inf") if figures is None else float(figures["cost"]) + 1 - float(figures["refuses"])


def additions(layers: Sequence[int], measured: Measured) -> None:
    """The mean difference added once, twice and four times at every layer: is there a direction that makes the model refuse?"""
    sources = (("forced", "means", "both"), ("natural", "means", "both"))
    sources += (("natural", "openings", "both"), ("natural", "openings", "reasoning"))
    for layer in layers:
        for positives, pooling, spans in sources:
            for angle in TIMES:
                given = {"positives": positives, "pooling": pooling, "spans": spans, "angle": angle}
                measured(Combination(layer, "prompt_end", target="add", protect="none", **given))


def papers(layers: Sequence[int], measured: Measured) -> None:
    """The paper's rotation at every layer: behind its own gate at two thresholds, and at every angle behind a calibrated one."""
    for layer in layers:
        for gate in ("ratio-0.6", "ratio-0.85"):
            measured(Combination(layer, gate))
        for angle in PARTS["angle"]:
            measured(Combination(layer, "prompt_end", angle=str(angle)))


def descent(start: Combination, layers: Sequence[int], measured: Measured) -> Combination:
    """One part after another set to its cheapest value, until a round changes nothing."""
    best = start
    for _ in range(ROUNDS):
        before = best
        for part in ORDER:
            tried = [best, *(one for one in moves(best, part, layers) if one != best)]
            best = min(tried, key=lambda one: cost(measured(one)))
        if best == before:
            break
    return best


def around(center: Combination, layers: Sequence[int], measured: Measured) -> None:
    """Every other value of every part, all else as it is."""
    measured(center)
    for part in ORDER:
        for one in moves(center, part, layers):
            measured(one)


def moves(center: Combination, part: str, layers: Sequence[int]) -> Iterator[Combination]:
    """The combinations that differ in one part alone; of energies none where nothing is protected. Several layers end at the last one."""
    if part == "energy" and center.protect == "none":
        return
    for value in layers if part == "layer" else PARTS[part]:
        one = replace(center, **{part: value})
        yield replace(one, layer=min(one.layer, layers[-1] + 1 - one.depth))


def keyed(last: int, layers: Sequence[int], measured: Measured) -> None:
    """`keyed` with one of R-MUSE's ideas at a time put in, or one of its own taken out."""
    own = Combination(last, "token", "positions", "keyed", protect="none", angle="1")
    changes: list[dict[str, Any]] = [{}, {"gate": "prompt_end"}, {"spans": "answer"}, {"spans": "reasoning"}]
    changes += [{"prototypes": "pooled"}, {"prototypes": "single"}, {"target": "nearest"}]
    changes += [
        {"protect": protect, "energy": energy}
        for protect in ("direction", "exact")
        for energy in PARTS["energy"]
    ]
    changes += [{"angle": angle} for angle in PARTS["angle"] if angle not in ("calibrated", "1")]
    changes += [{"layer": layer} for layer in layers if layer != last]
    for change in changes:
        measured(replace(own, **change))
