"""Results and inspections as tables in a terminal."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from exporter import registry
from exporter.estimate import Estimate
from exporter.evaluation.metrics.base import ONE_PASS, Metric, unregistered
from exporter.report import Figure, Measures, Report

if TYPE_CHECKING:
    from torch import Tensor

    from exporter.inspection import Inspection
    from exporter.pipeline.chat import Talk
    from exporter.pipeline.preflight import Preflight
    from exporter.targets.values import Summary

WIDTH_OF_LOGS = 160


@dataclass
class _Telling:
    """Output settings of the current command.

    Attributes:
        quiet: no progress and no remarks.
        answers: where the result goes as JSON; None for text output.
    """

    quiet: bool = False
    answers: TextIO | None = None


_NOW = _Telling()


@contextmanager
def telling(*, quiet: bool, as_json: bool) -> Iterator[None]:
    """Within it, :func:`result` prints as requested; with ``as_json`` all other output goes to stderr."""
    _NOW.quiet, _NOW.answers = quiet, sys.stdout if as_json else None
    if quiet:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # read once, by the Hub's library and Transformers
    try:
        with redirect_stdout(sys.stderr if as_json else sys.stdout):
            yield
    finally:
        _NOW.quiet, _NOW.answers = False, None


def result(data: Mapping[str, object], show: Callable[[], object]) -> None:
    """Print the result of a command: as text by ``show``, or as one JSON object on stdout."""
    if _NOW.answers is None:
        show()
    else:
        _NOW.answers.write(json.dumps(data, default=str) + "\n")
        _NOW.answers.flush()


def shows_progress() -> bool:
    """Whether bars are wanted."""
    return not _NOW.quiet


def show_stages() -> None:
    """Say on stderr which stage of a run begins, and how far it is."""
    log = logging.getLogger("exporter")
    log.setLevel(logging.WARNING if _NOW.quiet else logging.INFO)
    if not log.handlers:
        handler = _Stderr()
        handler.setFormatter(logging.Formatter("[%(asctime)s] %(message)s", "%H:%M:%S"))
        log.addHandler(handler)


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to the stderr of the moment: one process may run several commands, each with a stderr of its own."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        self.stream = sys.stderr
        super().emit(record)


def print_places(places: Mapping[str, object]) -> None:
    """Where something lies, a line each."""
    for name, place in places.items():
        print(f"{name}: {place}")  # noqa: T201 - a script may read it: no colours, no wrapping


def results(report: Mapping[str, object], out: Path) -> dict[str, object]:
    """The result of a run as data: its report, and the paths of report and checkpoint."""
    return {"out": str(out), "checkpoint": str(out / "checkpoint"), "report": report}


def print_results(content: Mapping[str, object], out: Path) -> None:
    """The table of a run's report.json, and where everything lies."""
    console, report = terminal(), Report.of(content)
    models = report.models
    table = Table(
        title=f"{escape(str(report.recipe['name']))}: fractions on held-out rows", title_justify="left"
    )
    table.add_column("measure")
    for name in models:
        mark = " (default)" if name == report.default else ""
        table.add_column(f"{name}{mark}", justify="right", overflow="fold")
    table.add_column("rows", justify="right")
    for label, metric, shown in _lines(models):
        figures = [metric.read(one.data()) for one in shown]
        if count := max(one.n for one in figures):
            table.add_row(escape(label), *(_with_interval(metric, one) for one in figures), str(count))
    for name, metric in registry.metrics(ONE_PASS).items():
        passes = [one[name] for one in report.extraction.values()]
        if passes and passes[0].n and metric.words.part_of is None:
            label = ", ".join(filter(None, (name, "one pass", metric.unit)))
            number = "{:.2f}" if metric.unit else "{:.3f}"
            table.add_row(label, *(number.format(one.value) for one in passes), str(passes[0].n))
    console.print(table)
    if held := report.cross_validated:
        leakage = held.leakage_either
        leak = Estimate(leakage.value, leakage.n, leakage.low, leakage.high)
        few = "; too few rows for a conclusion, add more" if leak.few else ""
        console.print(
            f"Forget rows, cross-validated: {leak.count} of {leak.n} leak, at most {leak.high:.3f} with 95% confidence{few}",
            soft_wrap=True,
        )
    if report.too_few_rows:
        console.print(f"Too few rows of {escape(report.default)} for a conclusion; add rows to data.test:")
    for sentence in report.too_few_rows:
        console.print(f"- {escape(sentence)}", soft_wrap=True)
    if report.stand_in:
        console.print(f"Stand-in: {escape(report.stand_in)}")
    for name in ("checkpoint", "report.md", "report.json", "generations.jsonl"):
        console.print(f"{name + ':':<20}{escape(str(out / name))}", soft_wrap=True)


def _lines(models: Mapping[str, Measures]) -> Iterator[tuple[str, Metric[object], list[Figure]]]:
    """A title, its metric and the figure of each model."""
    for name in models["base"].metrics:
        yield name, metric_of(name), [one.metrics[name] for one in models.values()]
    for eval_slice, counted in models["base"].eval_slices.items():
        for name in sorted(counted, key=lambda name: metric_of(name).words.rank):
            if (metric := metric_of(name)).words.in_slices:
                yield (
                    f"{eval_slice}: {name}",
                    metric,
                    [one.eval_slices[eval_slice][name] for one in models.values()],
                )


def metric_of(name: str) -> Metric[object]:
    """The metric of a name in a file, which another installation may have written."""
    return registry.metrics().get(name) or unregistered(name)


def print_inspection(found: Inspection) -> None:
    """What is steered where, by which gates, with hashes and files."""
    console = terminal()
    program, base = found.program, found.program.base
    console.print(
        f"[bold]{escape(str(found.folder))}[/bold] ({found.kind}, {found.section['format']})", soft_wrap=True
    )
    console.print(f"method {program.method}; base {base.architecture} ({base.model_type}),", end=" ")
    console.print(f"{program.num_layers} layers of width {program.hidden_size}")
    console.print(f"base fingerprint {base.fingerprint or 'not recorded'}", soft_wrap=True)
    console.print(f"steering sha256 {found.section['sha256']} [green]verified[/green]", soft_wrap=True)
    gates = Table("gate", "layer", "pool", "score", "fires", "tensors", title="Gates", title_justify="left")
    for gate in program.gates:
        fires = f"{gate.fires} {gate.threshold:.6g}"
        gates.add_row(gate.name, str(gate.layer), gate.pool, gate.score, fires, _shapes(gate.tensors))
    edits = Table("layer", "gate", "op", "how", "positions", "tensors", title="Edits", title_justify="left")
    for edit in program.edits:
        keys = ("target", "angle", "strength", "protect", "sign", "keep_norm")
        how = ", ".join(f"{key} {getattr(edit, key)}" for key in keys if getattr(edit, key) is not None)
        asked = edit.gate if isinstance(edit.gate, str) else " or ".join(edit.gate or ("always on",))
        edits.add_row(str(edit.layer), asked, edit.op, how, edit.positions, _shapes(edit.tensors))
    console.print(gates if program.gates else "No gates: every edit is always on.")
    console.print(edits)
    files = Table("file", "bytes", title="Files", title_justify="left")
    for name, size in found.files:
        files.add_row(escape(name), f"{size:,}")
    console.print(files)
    for remark in found.notes:
        console.print(f"note: {escape(remark)}", soft_wrap=True)


def print_preflight(found: Preflight) -> None:
    """What a recipe would run with: rows, base, disk, and the stages to come."""
    console = terminal()
    roles = sorted({role for counted in found.rows.values() for role in counted})
    table = Table("part", *roles, title=f"{escape(found.source)}: ready", title_justify="left")
    for part, counted in found.rows.items():
        table.add_row(part, *(str(counted.get(role, 0)) for role in roles))
    console.print(table)
    base = found.base
    console.print(
        f"base: {base['model_type']}, {base['layers']} layers of width {base['hidden_size']}, {base['parameters']:,} parameters"
    )
    if found.room is not None:
        console.print(f"disk: {found.room.described()}", soft_wrap=True)
    console.print(f"next steps: {', '.join(found.steps)}", soft_wrap=True)
    for remark in found.remarks:
        console.print(f"note: {escape(remark)}", soft_wrap=True)


def print_verification(found: Mapping[str, Any]) -> None:
    """Every check with what came of it, and what base, checkpoint and other targets forget and keep."""
    console = terminal()
    table = Table("check", "of", "", "told", title="Verification", title_justify="left")
    for check in found["checks"]:
        mark = "[green]holds[/green]" if check["holds"] else "[red]fails[/red]"
        table.add_row(check["name"], escape(check["target"]), mark, escape(check["told"]))
    console.print(table)
    if found["unlearning"] is None:
        console.print("Unlearning was not measured: give the recipe with --recipe.")
        return
    models = found["unlearning"]["models"]
    table = Table("measure", *map(escape, models), title="Fractions on held-out rows", title_justify="left")
    for measure in next(iter(models.values())):
        values = [figures[measure] for figures in models.values()]
        if any(value["rows"] for value in values):
            table.add_row(measure, *(_of_rows(metric_of(measure), value) for value in values))
    console.print(table)


def print_sentences(statements: Iterable[str], wrong: Iterable[str]) -> None:
    """What is right and what is wrong, a line each."""
    console, problems = terminal(), list(wrong)
    for line in statements:
        console.print(escape(line), soft_wrap=True)
    for line in problems:
        console.print(f"[red]wrong[/red] {escape(line)}", soft_wrap=True)
    if not problems:
        console.print("[green]it is unchanged since it was published[/green]")


def _of_rows(metric: Metric[object], value: Mapping[str, object]) -> str:
    one = metric.read(value, "rows")
    return f"{_with_interval(metric, one)} of {one.n}" if one.n else "-"


def _with_interval(metric: Metric[object], one: Estimate) -> str:
    """A figure with its 95% interval; a dash where nothing was counted, only the text if there are too few rows."""
    if not one.n:
        return "-"
    return "too few" if metric.is_few(one) else f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"


def print_summary(summary: Summary) -> None:
    """The summary of a folder."""
    console = terminal()
    table = Table(*summary.header, title=escape(summary.title), title_justify="left")
    for row in summary.rows:
        table.add_row(*row)
    console.print(table)
    console.print(summary.line, soft_wrap=True)


def note(line: str) -> None:
    """A note that is not part of the result."""
    if not _NOW.quiet:
        Console(stderr=True).print(escape(line), style="dim", soft_wrap=True)


def converse(talk: Talk, prompt: str | None, max_new_tokens: int) -> None:
    """Ask ``prompt``, or what the terminal asks until it ends; replies go to stdout as they come."""
    console = Console(highlight=False, markup=False)
    while True:
        try:
            question = prompt if prompt is not None else console.input("> ")
        except EOFError:
            return
        if question.strip():
            said = talk.say(
                question, lambda piece: console.print(piece, end="", soft_wrap=True), max_new_tokens
            )
            console.print()
            if said.gates is not None:  # some targets have none to show
                fired = [name for name, value in said.gates.items() if value > 0]
                note(f"gates: {', '.join(fired) if fired else 'none'}")
        if prompt is not None:
            return


def terminal() -> Console:
    """The terminal. Where no terminal says how wide it is (a log, a pipe), tables of four models still fit."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, WIDTH_OF_LOGS))


def _shapes(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
