"""An evaluation as a table in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from exporter.display import metric_of, terminal


def print_evaluation(found: Mapping[str, Any]) -> None:
    """Every metric of every model that was measured, and why the others were not."""
    console, models = terminal(), found["models"]
    title = f"{escape(found['recipe'])}: judged by {escape(found['judge'])}"
    table = Table("metric", "good", *map(escape, models), "rows", title=title, title_justify="left")
    missing: dict[str, list[str]] = {}
    for name in models["base"]["metrics"]:
        figures = [one["metrics"][name] for one in models.values()]
        for model, figure in zip(models, figures, strict=True):
            if figure["value"] is None:
                missing.setdefault(figure["why_not"], []).append(f"{name} ({model})")
        if any(figure["value"] is not None for figure in figures):
            better = {"lower": "low", "higher": "high"}.get(metric_of(name).better or "", "")
            counted = "/".join(map(str, dict.fromkeys(figure["n"] for figure in figures if figure["n"])))
            table.add_row(name, better, *map(_evaluated, figures), counted)
    console.print(table)
    if found["no_contrast"]:
        told = ", ".join(found["no_contrast"])
        console.print(f"the base's own is low, so a low figure says nothing: {escape(told)}", soft_wrap=True)
    for name, one in models.items():
        if one["rows"] and one["silent"] == one["rows"]:
            told = f"{name} says nothing to any of its {one['rows']} rows: that it leaks nothing is no forgetting"
            console.print(escape(told), soft_wrap=True)
    for why_not, names in missing.items():
        whole = list(dict.fromkeys(one.partition(" ")[0] for one in names))
        told = ", ".join(whole if len(names) == len(whole) * len(models) else names)
        console.print(f"not measured, {escape(why_not)}: {escape(told)}", soft_wrap=True)


def _evaluated(figure: Mapping[str, Any]) -> str:
    """``0.991 [0.979, 0.996]``, with how many rows the judge left out."""
    if figure["value"] is None:
        return "not measured"
    ends = ["-" if end is None else f"{end:.3f}" for end in figure["interval"] or ()]
    shown = f"{figure['value']:.3f}" + (f" [{', '.join(ends)}]" if ends else "")
    return f"{shown}, {figure['not_judged']} not judged" if figure["not_judged"] else shown
