"""What a study has found: tune.json, its picture, and the winner as a recipe."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Literal

import yaml

from exporter.artifact import Artifact, Strict
from exporter.atomic import write_text
from exporter.errors import FitError, InputErrors
from exporter.evaluation.front import Point, draw_front
from exporter.fitting.trials import Trial
from exporter.pipeline.tune_study import Tried
from exporter.recipe_tree import read_tree

LOG = logging.getLogger(__name__)
PICTURE = "pareto.png"
WRITTEN = "# Written by `steerbake tune"
"""How a recipe begins that may be written again."""


class TrialLine(Strict):
    """One trial. Shares of calibration rows; None, with a ``reason``, where the parameters cannot be fitted."""

    number: int
    params: dict[str, object]
    leakage: float | None
    kept: float | None
    fluent: float | None
    cost: float | None
    margin: float | None
    reason: str
    seconds: float
    cpu_seconds: float


class TuneRecord(Artifact):
    """The content of tune.json.

    Attributes:
        study: its name in the SQLite file.
        made_of: digests of what the trials follow from.
        searched: what was tried, by parameter.
        rows: calibration rows that each trial was judged on, by kind.
        front: numbers of the trials that none beats.
        winner: number of the trial that is written as a recipe.
        generated: the winner again, fitted once more and with every reply generated.
    """

    FILE: ClassVar[str] = "tune.json"
    REMEDY: ClassVar[str] = "run steerbake tune again"
    format: Literal["steerbake-tune/1"]
    recipe: str
    method: str
    study: str
    made_of: dict[str, str]
    searched: dict[str, str]
    rows: dict[str, int]
    trials: list[TrialLine]
    front: list[int]
    winner: int
    generated: dict[str, float]


def line_of(tried: Tried) -> TrialLine:
    """A trial as tune.json has it."""
    told = dict(tried.told)
    leakage, kept, fluent = tried.values or (None, None, None)
    cost = None if tried.values is None else Trial(tried.values[0], tried.values[2], tried.values[1]).cost
    shares = {"leakage": leakage, "kept": kept, "fluent": fluent, "cost": cost}
    return TrialLine.model_validate({"number": tried.number, **shares, **told})


def front_of(lines: Sequence[TrialLine]) -> list[int]:
    """Numbers of the trials that no other beats: as good in leak, kept and fluency, and better in one."""
    scores = {
        one.number: (-one.leakage, one.kept, one.fluent)
        for one in lines
        if _counts(one) and one.leakage is not None and one.kept is not None and one.fluent is not None
    }
    return [
        number
        for number, mine in scores.items()
        if not any(
            all(a >= b for a, b in zip(other, mine, strict=True)) and other != mine
            for other in scores.values()
        )
    ]


def winner_of(lines: Sequence[TrialLine]) -> TrialLine:
    """The trial of least cost; of equals the one with the widest gate margin, and then the first.

    The least cost lies on the front, because cost rises with the leak and falls with what is kept and fluent. What is no number does not
    win: a cost is not compared, and a margin is the worst one.

    Raises:
        FitError: no trial has a cost.
    """
    fitted = [one for one in lines if _counts(one)]
    if not fitted:
        raise FitError(
            "no trial of the study has a cost that is a number, so none wins; give more --trials or other rows"
        )
    return min(fitted, key=lambda one: (round(one.cost or 0.0, 9), -_margin(one), one.number))


def _counts(one: TrialLine) -> bool:
    return one.cost is not None and math.isfinite(one.cost)


def _margin(one: TrialLine) -> float:
    """A trial without a gate has none, which is 0."""
    margin = one.margin or 0.0
    return -math.inf if math.isnan(margin) else margin


def draw(record: TuneRecord, folder: Path) -> Path | None:
    """The picture of a study; None, with a note, where there is no matplotlib to draw with."""
    if find_spec("matplotlib") is None:
        LOG.warning(
            "note: the study has no picture, because matplotlib is not installed: pip install 'steerbake[report]'"
        )
        return None
    points = [
        Point(one.leakage, one.kept, one.fluent, one.number in record.front, one.number == record.winner)
        for one in record.trials
        if one.leakage is not None and one.kept is not None and one.fluent is not None
    ]
    draw_front(record.recipe, points, folder / PICTURE)
    return folder / PICTURE


def refuse_other(path: Path) -> None:
    """Raises InputErrors where a file lies at ``path`` that no study wrote."""
    if path.exists() and not (
        path.is_file() and path.read_text(encoding="utf-8", errors="replace").startswith(WRITTEN)
    ):
        raise InputErrors(
            str(path), ["exists and was not written by steerbake tune; give another file with --out"]
        )


def write_recipe(
    path: Path, source: Path, tree: Mapping[str, object], record: TuneRecord, place: Path
) -> None:
    """The winner as a recipe that ``steerbake run`` takes.

    Args:
        path: the file to write.
        source: the recipe's file, which its paths are relative to.
        tree: its content, with what was changed from outside.
        place: where tune.json lies.
    """
    moved = {**_moved(tree, source.parent, path.resolve().parent), "name": f"{tree['name']}-tuned"}
    before = tree.get("methods")
    methods = dict(before) if isinstance(before, dict) else {}
    lines = {one.number: one for one in record.trials}
    params = methods.get("params")
    chosen = {**(params if isinstance(params, dict) else {}), record.method: lines[record.winner].params}
    moved["methods"] = {"default": record.method, "compare": [], "params": chosen}
    text = "\n".join(_head(record, source, _relative(place / TuneRecord.FILE, path.resolve().parent)))
    write_text(path, f"{text}\n{yaml.safe_dump(moved, sort_keys=False, allow_unicode=True, width=120)}")
    read_tree(path)  # raises where it is no recipe


def _head(record: TuneRecord, source: Path, place: str) -> list[str]:
    """Comments that say where a recipe comes from."""
    lines = {one.number: one for one in record.trials}
    fitted = sum(one.leakage is not None for one in record.trials)
    found = [
        f"{WRITTEN} {source.name}`: trial {record.winner}, of {fitted} that were fitted, study {record.study} ({place}).",
        f"# On {record.rows['forget']} calibration rows to forget and {record.rows['keep']} to keep: {_shares(lines[record.winner])}.",
    ]
    own = next((one for one in record.trials if not one.reason and one is record.trials[0]), None)
    if own is not None:
        found.append(f"# With the parameters of {source.name} itself: {_shares(own)}.")
    found += [
        f"# Chosen: methods.params.{record.method}. No test row was read before this was written.",
        "# `methods.compare` is empty; name methods there to fit them too.",
    ]
    return found


def _shares(line: TrialLine) -> str:
    if line.leakage is None:
        return f"not fitted ({line.reason})"
    return f"leak {line.leakage:.3f}, kept {line.kept:.3f}, fluent {line.fluent:.3f}"


def _moved(tree: Mapping[str, object], before: Path, after: Path) -> dict[str, object]:
    """A recipe's tree with its relative paths, which were seen from the folder ``before``, seen from ``after``."""
    found = dict(tree)
    base, data = found.get("base"), found.get("data")
    if isinstance(base, dict):
        adapters = [
            _seen_from(one, before, after) if (before / str(one)).is_dir() else one
            for one in base.get("adapters") or ()
        ]
        found["base"] = {**_with_path(base, before, after), **({"adapters": adapters} if adapters else {})}
    if isinstance(data, dict):
        found["data"] = {
            key: [_source(one, before, after) for one in value] if isinstance(value, list) else value
            for key, value in data.items()
        }
    return found


def _source(value: object, before: Path, after: Path) -> object:
    """A source of rows: a path, or a mapping that may have one."""
    if isinstance(value, dict):
        return _with_path(value, before, after)
    return _seen_from(str(value), before, after)


def _with_path(value: Mapping[str, object], before: Path, after: Path) -> dict[str, object]:
    path = value.get("path")
    return {**value, "path": _seen_from(path, before, after)} if isinstance(path, str) else dict(value)


def _seen_from(path: str, before: Path, after: Path) -> str:
    """A path relative to ``before`` as one relative to ``after``; others stay as they are."""
    if Path(path).expanduser().is_absolute():
        return path
    return _relative((before / path).resolve(), after)


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder)).as_posix()
