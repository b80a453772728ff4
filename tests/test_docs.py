"""README and docs/: short, and every file that is pointed at is there. `make docs` checks the links within the site."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from exporter.data.rows import read_rows

HOME = Path(__file__).resolve().parent.parent
README = HOME / "README.md"
PAGES = [README, HOME / "CONTRIBUTING.md", *sorted((HOME / "docs").rglob("*.md"))]
SOURCES = [
    path for room in ("steer_modules", "exporter", "benchmarks") for path in (HOME / room).rglob("*.py")
]


def links(text: str) -> list[str]:
    """Targets of the links and pictures of a page that lie in the tree, without their anchors."""
    found = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [one.partition("#")[0] for one in found if not re.match(r"[a-z]+:|#", one)]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_the_reader_of_links_sees_all_of_them() -> None:
    text = "[a](b.md) ![c](d/e.svg) [f](g.md#h) [i](https://j.k) [l](#m)\n```\n[n](o.md)\n```\n"
    assert links(text) == ["b.md", "d/e.svg", "g.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_what_a_page_points_at_is_there(page: Path) -> None:
    assert not [one for one in links(page.read_text(encoding="utf-8")) if not (page.parent / one).is_file()]


def test_pages_that_the_code_names_are_there() -> None:
    named = {
        (path.name, page)
        for path in SOURCES
        for page in re.findall(r"docs/[\w./-]+\.md", path.read_text(encoding="utf-8"))
    }
    assert named
    assert not [one for one in named if not (HOME / one[1]).is_file()]


def test_readme_is_short_and_begins_with_demo_and_test() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.split()) <= 700
    assert re.findall(r"^    (\w+ \w+)", text, re.MULTILINE)[:2] == ["make demo", "make test"]


def test_the_rows_of_readme_are_rows(tmp_path: Path) -> None:
    (rows,) = blocks("json")
    (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
    assert {row.role for row in read_rows(tmp_path / "rows.jsonl")} == {"forget", "retain"}
    assert all(json.loads(line)["answer"] for line in rows.splitlines())
