"""Pictures of a report: where the gate's scores lie, and what each candidate layer would leak and keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORGET, KEEP, LINE = "#b2182b", "#2166ac", "#333333"
DOTS_PER_INCH = 150


@dataclass(frozen=True)
class GateScores:
    """One gate's scores of prompts, by what they are (``forget, test``), with the threshold they are compared to."""

    gate: str
    threshold: float
    fires: str
    scores: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class LayerTrial:
    """What a gate or an edit at one layer did on the calibration rows: fractions in [0, 1]."""

    layer: int
    leakage: float
    retained: float


def draw_gate_scores(method: str, gates: Sequence[GateScores], path: Path) -> None:
    """One panel per gate: a row of points per kind of rows, the threshold and the side that fires."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 0.6 + 2.6 * len(gates)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, gate in zip(figure.subplots(len(gates), squeeze=False)[:, 0], gates, strict=True):
        _gate_panel(axes, gate)
    figure.suptitle(f"{method}: gate scores", fontsize=11)
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})


def _gate_panel(axes: Axes, gate: GateScores) -> None:
    """Rows of points with jitter that follows from their order, so that the same scores draw the same picture."""
    names = list(gate.scores)
    for place, name in enumerate(names):
        values = gate.scores[name]
        heights = [place + 0.3 * (((7 * index) % 11) / 10 - 0.5) * 2 for index in range(len(values))]
        colour = FORGET if name.startswith("forget") else KEEP
        axes.scatter(values, heights, s=9, alpha=0.55, color=colour, linewidths=0)
    axes.axvline(gate.threshold, color=LINE, linewidth=1.2)
    left, right = axes.get_xlim()
    axes.axvspan(
        *((left, gate.threshold) if gate.fires == "below" else (gate.threshold, right)),
        color=FORGET,
        alpha=0.07,
    )
    axes.set_xlim(left, right)
    axes.set_yticks(range(len(names)), [f"{name} ({len(gate.scores[name])})" for name in names], fontsize=9)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(
        f"score of gate {gate.gate}; it fires {gate.fires} {gate.threshold:.4g} (shaded)", fontsize=9
    )
    axes.tick_params(axis="x", labelsize=9)


def draw_layers(
    method: str, gates: Sequence[LayerTrial], edits: Sequence[LayerTrial], chosen: Sequence[int], path: Path
) -> None:
    """Leakage and retention on the calibration rows by layer.

    Args:
        gates: the best gate of each layer; lines.
        edits: really steered models by their last edited layer; points.
        chosen: the layers of the gates that were taken.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    lines = (
        ("leakage", FORGET, "forget rows a gate here misses"),
        ("retained", KEEP, "retain rows on which a gate here does not fire"),
    )
    points = (
        ("leakage", FORGET, "forget rows that leak, edited here"),
        ("retained", KEEP, "retain rows unchanged, edited here"),
    )
    for what, colour, label in lines if gates else ():
        axes.plot(
            [one.layer for one in gates],
            [getattr(one, what) for one in gates],
            ".-",
            color=colour,
            label=label,
        )
    for what, colour, label in points if edits else ():
        values = [getattr(one, what) for one in edits]
        axes.plot([one.layer for one in edits], values, "D", mfc="none", ms=8, color=colour, label=label)
    for number, layer in enumerate(chosen):
        axes.axvline(
            layer, color=LINE, linewidth=1, linestyle=":", label="gate taken" if number == 0 else None
        )
    layers = sorted({one.layer for one in (*gates, *edits)} | set(chosen))
    axes.set_xticks(layers if len(layers) <= 16 else layers[:: len(layers) // 12])
    axes.set_ylim(-0.04, 1.04)
    axes.set_xlabel("layer (0-based)", fontsize=9)
    axes.set_ylabel("share of calibration rows", fontsize=9)
    axes.set_title(f"{method}: by layer", fontsize=11)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.tick_params(labelsize=9)
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})
