"""Which pictures a report has, drawn from gate scores and from the tables that a fit left."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypedDict

from exporter.evaluation.plots import GateScores, LayerTrial, draw_gate_scores, draw_layers

LOG = logging.getLogger(__name__)
KINDS = ("forget", "retain", "reasoning", "unknown")


class GateShown(TypedDict):
    """What is drawn of a gate of a steering section."""

    name: str
    layer: int
    threshold: float
    fires: str


class GateCandidate(TypedDict):
    """A line of the table ``gates``: shares of calibration rows, and the margin between the two kinds."""

    layer: int
    missed: float
    false_alarms: float
    margin: float


class EditTrial(TypedDict):
    """A line of the table ``trials``: shares of calibration rows on a really steered model."""

    layers: Sequence[int]
    leakage: float
    identical: float


class Tables(TypedDict, total=False):
    """What a fit left."""

    gates: Sequence[GateCandidate]
    trials: Sequence[EditTrial]


Scores = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]
"""Part of the rows -> gate -> role -> scores."""


def draw(
    out: Path,
    sections: Mapping[str, Mapping[str, Any]],
    scores: Mapping[str, Scores],
    records: Mapping[str, Tables],
) -> dict[str, str]:
    """Draw into ``out/plots``; returns paths relative to ``out`` by caption, none where there is no matplotlib to draw with.

    Args:
        sections: each method's steering section.
        scores: by method: part of the rows -> gate -> role -> scores.
        records: by method: the tables ``gates`` (candidates) and ``trials`` where its fit left them.
    """
    if find_spec("matplotlib") is None:
        LOG.warning(
            "note: the report has no plots, because matplotlib is not installed: pip install 'steerbake[report]'"
        )
        return {}
    (out / "plots").mkdir(exist_ok=True)
    drawn: dict[str, str] = {}
    for method, section in sections.items():
        if panels := list(_panels(section["gates"], scores.get(method, {}))):
            path = Path("plots") / f"gate_scores_{method}.png"
            draw_gate_scores(method, panels, out / path)
            drawn[f"{method}: gate scores of forget and retain rows, with the threshold"] = path.as_posix()
        tables = records.get(method, {})
        by_gate, by_edit = gate_trials(tables.get("gates", ())), edit_trials(tables.get("trials", ()))
        if by_gate or by_edit:
            path = Path("plots") / f"layers_{method}.png"
            chosen = sorted({gate["layer"] for gate in section["gates"]})
            draw_layers(method, by_gate, by_edit, chosen, out / path)
            drawn[f"{method}: leakage and retention by layer, on the calibration rows"] = path.as_posix()
    return drawn


def _panels(gates: Sequence[GateShown], scores: Scores) -> Iterable[GateScores]:
    for gate in gates:
        found = {
            f"{role}, {part}": by_gate[gate["name"]][role]
            for role in KINDS
            for part, by_gate in scores.items()
            if role in by_gate.get(gate["name"], {})
        }
        if found:
            yield GateScores(gate["name"], gate["threshold"], gate["fires"], found)


def gate_trials(candidates: Sequence[GateCandidate]) -> list[LayerTrial]:
    """The best gate candidate of each layer: what it misses leaks, what it leaves alone is kept."""
    best: dict[int, GateCandidate] = {}
    for line in candidates:
        found = best.get(line["layer"])
        if found is None or _cost(line) < _cost(found):
            best[line["layer"]] = line
    return [
        LayerTrial(layer, line["missed"], 1.0 - line["false_alarms"]) for layer, line in sorted(best.items())
    ]


def _cost(line: GateCandidate) -> tuple[float, float]:
    return line["missed"] + line["false_alarms"], -line["margin"]


def edit_trials(trials: Sequence[EditTrial]) -> list[LayerTrial]:
    """What really steered models did, by their last edited layer; the best trial of each."""
    best: dict[int, EditTrial] = {}
    for line in trials:
        layer = max(line["layers"])
        if (
            layer not in best
            or line["leakage"] - line["identical"] < best[layer]["leakage"] - best[layer]["identical"]
        ):
            best[layer] = line
    return [LayerTrial(layer, line["leakage"], line["identical"]) for layer, line in sorted(best.items())]
