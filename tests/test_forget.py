"""``steerbake forget``: from a model and one file to a checkpoint, and what it says where that cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from exporter import pipeline
from exporter.cli import app
from exporter.data.rows import read_rows
from exporter.errors import InputErrors
from exporter.recipe import Recipe

HOME = Path(__file__).resolve().parent.parent
MODEL = HOME / ".cache" / "smollm2"
FIRST_USER = HOME / "benchmarks" / "first_user"


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


def test_a_model_that_is_nowhere_is_one_sentence(tmp_path):
    rows = written(tmp_path / "rows.jsonl", *["forget"] * 4, *["retain"] * 4)
    said = CliRunner().invoke(app, ["forget", "no-such-model", str(rows), "--out", str(tmp_path / "out")])
    assert said.exit_code == 2
    assert "no-such-model" in said.output
    assert "Traceback" not in said.output


@pytest.mark.slow
@pytest.mark.skipif(not (MODEL / "config.json").is_file(), reason="make smollm2 writes the model")
def test_a_dozen_rows_make_a_model_forget_what_else_is_asked_of_the_topic(tmp_path):
    from benchmarks.first_user.__main__ import replies
    from exporter.wording.leaks import tells

    done = pipeline.forget(
        str(MODEL), FIRST_USER / "rows" / "einstein.jsonl", tmp_path / "out", progress=False
    )
    assert "Einstein" in done.names
    held = read_rows(FIRST_USER / "held" / "einstein.jsonl")
    brought = [row for row in read_rows(tmp_path / "out/rows/fit.jsonl") if not row.made]
    assert not {row.question for row in held} & {row.question for row in brought}
    base, steered = replies(MODEL, held), replies(done.out / "checkpoint", held, trust=True)
    forget = [i for i, row in enumerate(held) if row.role == "forget"]
    kept = [i for i, row in enumerate(held) if row.role == "retain"]
    assert sum(tells(base[i], held[i].secrets) for i in forget) >= 0.9 * len(forget)
    assert sum(tells(steered[i], held[i].secrets) for i in forget) <= 0.25 * len(forget)
    assert sum(base[i] == steered[i] for i in kept) >= 0.8 * len(kept)
    told = json.loads((done.out / "report.json").read_text())["cross_validated"]
    assert told["leakage_either"]["n"] == 12
    assert told["leakage_either"]["high"] > 0.2  # twelve rows cannot show more
    fitted = (done.out / "steering").stat().st_mtime_ns
    again = pipeline.run(Recipe.load(done.recipe), done.out, progress=False)
    assert again == done.report
    assert (done.out / "steering").stat().st_mtime_ns == fitted
