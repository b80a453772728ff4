"""Which combinations are measured: a map of plain steps, then one part after another, then back, one part at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from benchmarks.r_muse_parts.combination import PARTS, Combination

Figures = Mapping[str, Any]
Measured = Callable[[Combination], Figures | None]
"""Figures of a combination, measured or read; None where it cannot be built."""
ORDER: tuple[tuple[str, ...], ...] = (
    ("layer",),
    ("prototypes",),
    ("positives", "pooling", "spans"),
    ("target",),
    ("angle",),
    ("protect", "energy"),
    ("depth",),
    ("gate",),
)
"""Parts in the order in which they are set; those that say what a direction is made from mean little one by one."""
WAY: tuple[tuple[str, ...], ...] = (
    ("gate",),
    ("protect", "energy"),
    ("prototypes",),
    ("positives", "pooling"),
    ("target",),
    ("spans",),
    ("angle",),
    ("depth",),
)
"""Parts in the order in which the paper's become another combination's."""
NAMES = tuple(parts[0] for parts in ORDER)
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
    """One part of :data:`ORDER` after another set to its cheapest value, until a round changes nothing."""
    best = start
    for _ in range(ROUNDS):
        before = best
        for parts in ORDER:
            tried = [best, *(one for one in moves(best, parts, layers) if one != best)]
            best = min(tried, key=lambda one: cost(measured(one)))
        if best == before:
            break
    return best


def around(center: Combination, layers: Sequence[int], measured: Measured, named: Sequence[str]) -> None:
    """Every other value of every part of :data:`ORDER` that begins with one of those ``named``, all else as it is."""
    measured(center)
    for parts in (parts for parts in ORDER if parts[0] in named):
        for one in moves(center, parts, layers):
            measured(one)


def ideas(best: Combination, layers: Sequence[int]) -> list[Combination]:
    """A combination's parts with all three ideas of R-MUSE: both spans, a retain subspace, a calibrated angle; at every layer and energy."""
    whole = replace(best, spans="both", angle="calibrated", depth=1)
    return [
        replace(whole, layer=layer, protect=protect, energy=energy)
        for layer in layers
        for protect in ("direction", "exact")
        for energy in cast("tuple[float, ...]", PARTS["energy"])
    ]


def steps(best: Combination) -> list[Combination]:
    """From the paper's rotation at a combination's layer to that combination, the parts of one step of :data:`WAY` at a time."""
    found = [Combination(best.layer)]
    for parts in WAY:
        one = replace(found[-1], **{part: getattr(best, part) for part in parts})
        if one != found[-1]:
            found.append(one)
    return found


def moves(center: Combination, parts: Sequence[str], layers: Sequence[int]) -> Iterator[Combination]:
    """The combinations that differ in these parts alone. Several layers end at the last one; without protection one energy is as good as any."""
    for values in itertools.product(*(layers if part == "layer" else PARTS[part] for part in parts)):
        one = replace(center, **dict(zip(parts, values, strict=True)))
        if one.protect != "none" or one.energy == PARTS["energy"][0]:
            yield replace(one, layer=min(one.layer, layers[-1] + 1 - one.depth))


def keyed(last: int, layers: Sequence[int]) -> list[Combination]:
    """`keyed`, then `keyed` with one of R-MUSE's ideas at a time put in, or one of its own taken out."""
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
    return [replace(own, **change) for change in changes]
