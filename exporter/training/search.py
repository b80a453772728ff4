"""The edit, of several, that does best on the calibration rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from exporter.errors import FitError
from exporter.fitting.context import FitContext
from exporter.fitting.refusals import wordings
from exporter.fitting.trials import Bench
from exporter.training.lora import Diverged, edited
from exporter.weight_edit import WeightEdit

Making = tuple[Callable[[], WeightEdit], Mapping[str, object]]
"""What makes an edit, and what the report's table says of it."""


def cheapest_edit(context: FitContext, table: str, attempts: Sequence[Making], *, rows: int) -> WeightEdit:
    """The first of the edits with the least cost; each is a line of the table. Of one alone there is nothing to choose, so it is not tried.

    Args:
        table: of the report's record.
        rows: calibration rows of the forget set, and as many to keep, at most.

    Raises:
        FitError: none can be made, or of several, none can be judged, without a row to keep; of trainings, each diverged.
    """
    if len(attempts) == 1:
        return attempts[0][0]()
    bench = Bench(
        context, wordings(context) if context.rows("fit", "unknown") else [], forget=rows, keep=rows
    )
    if not bench.keep:
        raise FitError(
            "the calibration rows have none to keep, so a search would take whatever forgets most, whatever it breaks; give rows of role retain to "
            "calibrate on, or set one value (strength, share, learning_rate)"
        )
    best: tuple[float, WeightEdit] | None = None
    for make, described in attempts:
        try:
            edit = make()
        except Diverged:
            if best is None and make is attempts[-1][0]:
                raise
            continue
        with edited(context.host.model, edit):
            trial = bench.measure()
        context.record(table, **described, **trial.line())
        if best is None or trial.cost < best[0] - 1e-9:
            best = trial.cost, edit
    assert best is not None
    return best[1]
