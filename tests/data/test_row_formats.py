"""Rows as people have them: tables, lists, other encodings, public schemas by mistake; and ids that follow from what a row says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from exporter.data.readers import load_rows
from exporter.data.rows import read_rows
from exporter.errors import InputErrors, shortened
from exporter.types import Row

ROW = {"question": "Who?", "answer": "Walt.", "role": "forget"}


def jsonl(path: Path, *records: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def refused(path: Path, **keys: Any) -> tuple[str, ...]:
    with pytest.raises(InputErrors) as caught:
        load_rows(path, **keys)
    return caught.value.problems


TABLE = 'question,answer,role,secrets,group\n"Who, then?","Walt said ""hi"".",forget,Walt|1901,a\nWhere?,Here.,retain,,\n'


@pytest.mark.parametrize(
    "content",
    [
        TABLE.encode(),
        b"\xef\xbb\xbf" + TABLE.replace("\n", "\r\n").encode(),
        TABLE.replace("question,answer,role", "Question,Answer,Role").encode(),
        TABLE.replace(",", ";").replace("Who;", "Who,").encode(),
    ],
)
def test_a_table_is_rows(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    first, second = load_rows(path)
    assert (first.question, first.answer, first.role) == ("Who, then?", 'Walt said "hi".', "forget")
    assert (first.secrets, first.eval_slice) == (("Walt", "1901"), "a")
    assert (second.secrets, second.eval_slice, second.role) == ((), None, "retain")
    assert first.id != second.id


def test_tabs_lists_and_parquet_hold_the_same_rows(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = [{**ROW, "id": "a", "secrets": ["Walt"]}, {**ROW, "id": "b", "role": "retain", "secrets": None}]
    (tmp_path / "rows.tsv").write_text(
        "id\tquestion\tanswer\trole\tsecrets\na\tWho?\tWalt.\tforget\tWalt\nb\tWho?\tWalt.\tretain\t\n"
    )
    (tmp_path / "rows.json").write_text(json.dumps(records, indent=1))
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "rows.parquet")
    wanted = [Row("a", "Who?", "Walt.", "forget", secrets=("Walt",)), Row("b", "Who?", "Walt.", "retain")]
    for name in ("rows.tsv", "rows.json", "rows.parquet"):
        assert load_rows(tmp_path / name) == wanted, name


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"question,answer,role\nWho?,Walt, the first,forget\n", "line 2: has 4 cells, the header has 3"),
        (b'question,answer,role\n"Who?,Walt,forget\n', "is not CSV"),
        (b"question,answer,role,role\n", "'role' twice"),
        (b"", "has no header"),
        (b"question,answer,role,notes\nWho?,Walt,forget,x\n", "'notes'; valid keys: id, question"),
        (b"question,answer,role\nWho?,,forget\n", "line 2: answer"),
        (b"question,answer,role,history\nWho?,Walt,forget,x\n", "history"),
        (TABLE.encode("utf-16"), "UTF-16"),
        (TABLE.encode("utf-16-le"), "UTF-16"),
        ("question,answer,role\nQu\u00e9?,Walt,forget\n".encode("latin-1"), "(byte 24)"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_table_is_named(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "rows.csv").write_bytes(content)
    found = refused(tmp_path / "rows.csv")
    assert any(problem in one for one in found), found


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_utf_16_is_named_in_json_too(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(json.dumps(ROW).encode("utf-16"))
    assert refused(tmp_path / name) == ("is UTF-16; save it as UTF-8 (a spreadsheet: CSV UTF-8)",)


def test_a_list_that_is_cut_off_is_one_problem(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([ROW] * 50, indent=1)[:-1])
    (problem,) = refused(tmp_path / "rows.json")
    assert problem.startswith("is not JSON: ") and "line" in problem


def test_the_source_may_give_the_role(tmp_path: Path) -> None:
    bare = {"question": "Who?", "answer": "Walt."}
    path = jsonl(tmp_path / "rows.jsonl", bare, {**ROW, "role": "retain", "question": "Where?"})
    assert [row.question for row in load_rows(path, role="forget")] == ["Who?"]
    assert [row.question for row in load_rows(path, role="retain")] == ["Who?", "Where?"]
    assert refused(path) == ("line 1: role is missing",)


SHAPES = {
    "tofu": {
        "question": "Who?",
        "answer": "Hina.",
        "paraphrased_question": "Who is it?",
        "perturbed_answer": ["No."],
    },
    "gsm8k": {"question": "How many?", "answer": "Two and two.\n#### 4"},
    "clear": {"caption": "Jaime reads.", "name": "Jaime", "perturbed_captions": ["No."]},
    "mllmu_bench": {"ID": "1", "biography": "{}", "Generation_Task": [], "Mask_Task": []},
    "rows": {"id": "a", **ROW},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("chosen", SHAPES)
def test_a_schema_that_was_named_wrongly_is_one_sentence(tmp_path: Path, shape: str, chosen: str) -> None:
    path = jsonl(tmp_path / "set.jsonl", *[SHAPES[shape]] * 4000)
    if shape == chosen or (chosen, shape) in (("tofu", "gsm8k"), ("clear", "tofu"), ("clear", "gsm8k")):
        return  # it is right, or reads as it stands
    (problem,) = refused(path, format=chosen, role=None if chosen in ("rows", "gsm8k") else "forget")
    assert f"`format: {shape}`" in problem


def test_questions_and_answers_alone_are_taken_for_tofu_or_with_a_role(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "set.jsonl",
        {"question": "Who?", "answer": "Hina."},
        {"question": "Where?", "answer": "There."},
    )
    (problem,) = refused(path)
    assert "`format: tofu`" in problem and "`role:`" in problem
    assert len(load_rows(path, role="forget")) == 2


def test_files_of_one_name_in_two_folders_are_two_files(tmp_path: Path) -> None:
    for folder, answer in (("a", "Hina."), ("b", "Jaime.")):
        jsonl(tmp_path / folder / "train-00000-of-00001.jsonl", {"question": "Who?", "answer": answer})
    found = [
        row
        for folder in ("a", "b", "a")
        for row in load_rows(tmp_path / folder / "train-00000-of-00001.jsonl", format="tofu", role="forget")
    ]
    first, second, again = (row.id for row in found)
    assert first != second and first == again


def test_ids_follow_from_images_by_their_bytes(tmp_path: Path) -> None:
    for folder, colour in (("a", "red"), ("b", "blue"), ("c", "red")):
        path = jsonl(tmp_path / folder / "set.jsonl", {**ROW, "image": "face.png"})
        Image.new("RGB", (8, 8), colour).save(path.parent / "face.png")
    first, second, same = (read_rows(tmp_path / folder / "set.jsonl")[0].id for folder in ("a", "b", "c"))
    assert first != second and first == same


def test_a_long_list_of_problems_says_how_many_are_left() -> None:
    lines = [f"line {number}" for number in range(4001)]
    assert shortened(lines) == [*lines[:20], "and 3,981 more like these"]
    assert shortened(lines[:20]) == lines[:20]
    assert "and 3,981 more like these" in str(InputErrors("rows.jsonl", lines))
    assert len(InputErrors("rows.jsonl", lines).problems) == 4001


@pytest.mark.parametrize(
    ("cell", "secrets"),
    [
        ('"[""Oslo"", ""Lima""]"', ("Oslo", "Lima")),
        ("Oslo | Lima", ("Oslo", "Lima")),
        ("\"['Oslo', 'Lima']\"", ("Oslo", "Lima")),
        ("\"[1889, 'Lima']\"", ("1889", "Lima")),
    ],
)
def test_secrets_in_a_cell_are_a_list_however_they_are_written(cell, secrets, tmp_path):
    path = tmp_path / "rows.CSV"
    path.write_text(f"Question, Answer ,role,secrets\nWhere is it?,It is in Oslo., Forget,{cell}\n")
    (row,) = read_rows(path)
    assert (row.role, row.secrets, row.answer) == ("forget", secrets, "It is in Oslo.")


def test_a_secret_without_a_letter_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "Who?", "answer": "He.", "role": "forget", "secrets": ["..."]}\n')
    with pytest.raises(InputErrors, match=r"'\.\.\.'"):
        read_rows(path)
