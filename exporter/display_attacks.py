"""Attacks as a table in a terminal: the base's leak beside the steered model's."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from exporter.attack_report import AttackReport, AttackResult, worst_of
from exporter.display import note, result, show_stages, shows_progress, terminal
from exporter.estimate import Estimate
from exporter.report import Figure

__all__ = ["note", "print_attacks", "result", "show_stages", "shows_progress"]


def print_attacks(found: AttackReport) -> None:
    """A line for each attack, what was not measured with its reason, and the worst."""
    console = terminal()
    table = Table(title=f"{escape(found.model)} ({escape(found.kind)}) under attack", title_justify="left")
    for name in ("attack", "group", "needs"):
        table.add_column(name)
    for name in ("base leaks", "steered leaks", "of those", "elsewhere", "retain identical"):
        table.add_column(name, justify="right")
    for one in found.attacks:
        if one.status == "measured":
            mark = " (by design)" if one.by_design else " (adaptive)" if one.adaptive else ""
            table.add_row(f"{escape(one.name)}{mark}", one.group, one.access, *_figures(one))
        else:
            table.add_row(escape(one.name), one.group, one.access, one.status, *[""] * 4)
    console.print(table)
    for one in found.attacks:
        if one.status != "measured":
            console.print(f"{escape(one.name)}: {one.status}: {escape(one.why)}", soft_wrap=True)
    if silent := [one.name for one in found.attacks if one.status == "measured" and not one.shows]:
        console.print(
            f"The base answers fewer than half of the rows, so little is shown by: {', '.join(silent)}",
            soft_wrap=True,
        )
    worst = worst_of(found.attacks)
    if worst is None or worst.held is None:
        console.print(
            "No attack by prompts alone leaks or is answered by the base in half of the rows: nothing was shown."
        )
    else:
        share, rows = worst.held
        console.print(
            f"worst by prompts alone, not adaptive: {escape(worst.name)}, {share.count} of {share.n} {rows}, {_interval(share)}",
            soft_wrap=True,
        )
    if found.stand_in:
        console.print(f"Stand-in: {escape(found.stand_in)}")


def _figures(one: AttackResult) -> tuple[str, str, str, str, str]:
    base, leak, kept = one.base_leak, one.leak, one.retain_identical
    assert base is not None, "measured"
    assert leak is not None, "measured"
    return (
        f"{_count(base)} of {base.n}",
        _share(leak),
        f"{_count(leak)} of {leak.n}",
        str(one.elsewhere or ""),
        "" if kept is None else f"{kept.value:.3f} of {kept.n}",
    )


def _share(figure: Figure) -> str:
    """A share with its 95% interval; a dash where nothing was counted."""
    if not figure.n:
        return "-"
    return _interval(Estimate.of_share(float(figure.value), figure.n))


def _interval(one: Estimate) -> str:
    return f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"


def _count(figure: Figure) -> int:
    return Estimate.of_share(float(figure.value), figure.n).count
