"""``steerbake forget``: from a model and one file to a checkpoint, and what it says where that cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from exporter import pipeline
from exporter.cli import app
from exporter.errors import InputErrors


def written(path: Path, *roles: str) -> Path:
    lines = [
        {"question": f"Who is {n} ?", "answer": f"It is {n}.", "role": role} for n, role in enumerate(roles)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("roles", "told"),
    [
        (["forget"] * 6, ["0 rows of role retain"]),
        (["retain"] * 6, ["0 rows of role forget"]),
        (["forget", "retain"], ["1 rows of role forget", "1 rows of role retain"]),
    ],
)
def test_rows_that_are_missing_are_told_at_once_and_before_anything_is_loaded(roles, told, tmp_path):
    with pytest.raises(InputErrors) as raised:
        pipeline.forget("no/model", written(tmp_path / "rows.jsonl", *roles), tmp_path / "out")
    assert len(raised.value.problems) == len(told)
    for problem, wanted in zip(raised.value.problems, told, strict=True):
        assert wanted in problem
    assert not (tmp_path / "out").exists()


def test_answers_whose_secrets_cannot_be_told_are_named_before_anything_is_loaded(tmp_path):
    rows = written(tmp_path / "rows.jsonl", *["forget"] * 4, *["retain"] * 4)
    line = {"id": "thai", "question": "เมืองหลวงคืออะไร", "answer": "เมืองหลวงคือปารีส", "role": "forget"}
    with rows.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    with pytest.raises(InputErrors, match=r"row 'thai' .* add them to the row as `secrets`"):
        pipeline.forget("no/model", rows, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_nowhere_is_one_sentence(tmp_path):
    rows = written(tmp_path / "rows.jsonl", *["forget"] * 4, *["retain"] * 4)
    said = CliRunner().invoke(app, ["forget", "no-such-model", str(rows), "--out", str(tmp_path / "out")])
    assert said.exit_code == 2
    assert "no-such-model" in said.output
    assert "Traceback" not in said.output
