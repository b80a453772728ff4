"""The picture of a study: what every trial leaked and kept, with the trials that no other one beats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.evaluation.plots import DOTS_PER_INCH, KEEP, LINE


@dataclass(frozen=True)
class Point:
    """A trial: shares of calibration rows, in [0, 1]; ``front``: no trial is better in one of them and as good in the others."""

    leakage: float
    kept: float
    fluent: float
    front: bool
    winner: bool


def draw_front(name: str, points: Sequence[Point], path: Path) -> None:
    """Leak against kept replies, fluency as colour; the front is joined, the winner ringed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    shown = axes.scatter(
        [one.leakage for one in points],
        [one.kept for one in points],
        c=[one.fluent for one in points],
        cmap="viridis",
        vmin=0,
        vmax=1,
        s=36,
        linewidths=0,
    )
    front = sorted({(one.leakage, one.kept) for one in points if one.front})
    axes.plot(*zip(*front, strict=True), color=KEEP, linewidth=1, linestyle="--", label="front")
    for one in points:
        if one.winner:
            axes.plot(
                [one.leakage], [one.kept], "o", mfc="none", mec=LINE, ms=13, label="written as a recipe"
            )
    figure.colorbar(shown, label="fluent refusals, share of forget rows")
    axes.set_xlabel("forget rows that leak", fontsize=9)
    axes.set_ylabel("rows to keep with the base's reply", fontsize=9)
    axes.margins(0.08)
    axes.set_title(f"{name}: {len(points)} trials on calibration rows", fontsize=11)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})
