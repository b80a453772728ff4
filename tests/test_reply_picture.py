"""The picture of README shows what a run replied, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from manifests import run_report

from benchmarks.reply_picture import picture, shown

REPLIES = {("base", "f"): "It is <Paris> & more.", ("keyed", "f"): "Not available.", ("base", "r"): "Rome."}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    lines = [{"model": model, "id": row, "text": text} for (model, row), text in REPLIES.items()]
    (tmp_path / "generations.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "report.json").write_text(json.dumps(run_report()))
    rows = [("f", "forget", "Which city?"), ("r", "retain", "And Italy?")]
    told = [{"id": name, "question": asked, "answer": "x", "role": role} for name, role, asked in rows]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, told)))
    return tmp_path


def test_it_holds_question_and_both_replies(run: Path) -> None:
    tree = ET.fromstring(picture("a title", shown(run, run / "rows.jsonl", ["f"])))
    texts = ["".join(one.itertext()) for one in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == [
        "a title",
        "base",
        "steered checkpoint",
        "forget set: Which city?",
        "It is <Paris> & more.",
        "Not available.",
    ]


@pytest.mark.parametrize("row", ["r", "nobody"])
def test_a_row_without_both_replies_is_refused(run: Path, row: str) -> None:
    with pytest.raises(SystemExit, match=row):
        shown(run, run / "rows.jsonl", [row])
