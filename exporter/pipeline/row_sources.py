"""The rows that a recipe names, read part by part; what is wrong with any of them is told with all the rest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from exporter.data.readers import load_rows
from exporter.errors import InputErrors, shortened
from exporter.recipe import Recipe
from exporter.splits import Splits, set_aside
from exporter.types import Row

PARTS = ("fit", "calibrate", "test")


def read_parts(recipe: Recipe, image_dir: Path) -> tuple[dict[str, list[Row]], list[str]]:
    """(the rows of each part as the files hold them, what is wrong with the files).

    Args:
        image_dir: where images that come inside the records are written as files.
    """
    rows: dict[str, list[Row]] = {part: [] for part in PARTS}
    problems: list[str] = []
    for part in PARTS:
        for index, source in enumerate(getattr(recipe.data, part) or ()):
            place = source.dataset if source.path is None else recipe.locate(source.path)
            options = source.model_dump(include={"format", "role", "split", "name", "limit"})
            try:
                rows[part] += load_rows(place or "", image_dir=image_dir, **options)
            except InputErrors as error:
                where = f"data.{part}.{index}: {error.source}"
                problems += [f"{where}: {problem}" for problem in shortened(error.problems)]
    return rows, problems


def split(recipe: Recipe, rows: Mapping[str, list[Row]]) -> Splits:
    """The three parts of a run: without calibration rows of their own, some of the fit rows are set aside for that."""
    fit, calibrate = rows["fit"], rows["calibrate"]
    if recipe.data.calibrate is None:
        fit, calibrate = set_aside(fit, recipe.data.calibrate_fraction, recipe.seed)
    return Splits(tuple(fit), tuple(calibrate), tuple(rows["test"]))


def read_splits(recipe: Recipe, image_dir: Path) -> Splits:
    """The rows of all three parts, checked against each other; raises InputErrors with everything that is wrong."""
    rows, problems = read_parts(recipe, image_dir)
    if problems:
        raise InputErrors(f"rows of {recipe.name}", problems)
    splits = split(recipe, rows)
    splits.check(f"rows of {recipe.name}")
    return splits
