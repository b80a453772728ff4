"""The tables of methods say what the files of their measurement say."""

from __future__ import annotations

import json
import re
from pathlib import Path

from benchmarks.method_table.page import COLUMNS, RESULTS, page

HOME = Path(__file__).resolve().parent.parent


def test_the_page_is_what_the_files_say() -> None:
    written = (HOME / "docs" / "comparison.md").read_text(encoding="utf-8")
    assert written == page(sorted(RESULTS.glob("methods*.json")))


def test_readme_has_the_figures_of_the_file() -> None:
    found = json.loads((RESULTS / "methods.json").read_text(encoding="utf-8"))
    rows = re.findall(
        r"^\| `(\w+)`.*? \| ([\d. |]+) \|$", (HOME / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {"base", "keyed", "r_muse"} <= {name for name, _ in rows}
    for name, cells in rows:
        assert cells.split(" | ") == [
            f"{found[name][one]['value']:.3f}" for one in ("leak", "fluent", "retain")
        ], name


def test_a_column_without_a_figure_of_every_seed_is_a_dash(tmp_path: Path) -> None:
    figure = {"value": 0.5, "n": 4}
    for seed, worst in ((1, figure), (2, "the base answers no attack")):
        one = dict.fromkeys(COLUMNS, figure) | {"worst": worst, "seconds": 1, "bytes": 2}
        (tmp_path / f"methods-3-people-seed{seed}.json").write_text(json.dumps({"keyed": one}))
    (line,) = re.findall(r"^\| `keyed` .*$", page(sorted(tmp_path.iterdir())), re.MULTILINE)
    cells = dict(zip(COLUMNS, line.split(" | ")[1:], strict=False))
    assert cells["worst"] == "-"
    assert cells["leak"] == "0.500"
