"""Row files are read whole or not at all, and everything wrong with one is said at once."""

from __future__ import annotations

import json
import re
import types
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from exporter.data.readers import load_rows
from exporter.data.rows import MEASURED, read_rows, write_rows
from exporter.digests import digest_of
from exporter.errors import InputErrors
from exporter.types import Row, Turn

GOOD = {"id": "a", "question": "Who ?", "answer": "Walt .", "role": "forget"}


@pytest.fixture(scope="session")
def make() -> types.SimpleNamespace:
    """Rows and pictures of this file's own."""

    def row(**keys: Any) -> Row:
        values = {"id": "r1", "question": "Where is it ?", "answer": "In Paris .", "role": "retain"}
        return Row(**{**values, **keys})

    def picture(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (200, 30, 30)).save(path)
        return path

    return types.SimpleNamespace(row=row, picture=picture)


def lines(path: Path, *records: object) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records), "utf-8")
    return path


BAD = {
    "not json": ("{nope", "is not JSON"),
    "no object": ("[1, 2]", "a list ([1, 2])"),
    "repeated key": ('{"id": "x", "id": "y"}', "key 'id'"),
    "missing": ({**GOOD, "answer": None}, "answer is null"),
    "absent": ({k: v for k, v in GOOD.items() if k != "question"}, "question is missing"),
    "blank": ({**GOOD, "answer": " \n"}, "answer is empty"),
    "type": ({**GOOD, "answer": 3}, "a number (3)"),
    "role": ({**GOOD, "role": "keep"}, "valid roles: forget, retain, reasoning, unknown"),
    "unknown key": ({**GOOD, "secret": ["x"]}, "'secret'; valid keys: id, question"),
    "secrets": ({**GOOD, "secrets": "Toronto"}, "secrets must be a list"),
    "one secret": ({**GOOD, "secrets": ["Toronto", ""]}, "secrets[1] is empty"),
    "options": (
        {**GOOD, "options": ["Paris", "Rome"]},
        "answer must be the letter of one of the options: A, B",
    ),
    "derived": ({**GOOD, "derived_secrets": "Tokyo"}, "derived_secrets must be a list"),
    "history": ({**GOOD, "history": [{"question": "hi", "says": "x"}]}, "'says' in history[0]"),
    "history turn": ({**GOOD, "history": ["hi"]}, "history[0] must be an object"),
    "history reasoning": ({**GOOD, "history": [{"question": "q", "reasoning": "r"}]}, "history[0].reasoning"),
    "no image": ({**GOOD, "image": "gone.png"}, "gone.png"),
    "folder image": ({**GOOD, "image": "."}, "is not a file"),
    "broken image": ({**GOOD, "image": "broken.png"}, "broken.png"),
    "history image": ({**GOOD, "history": [{"question": "q", "image": "gone.png"}]}, "history[0].image"),
    "endless image": ({**GOOD, "image": "x" * 6000}, "image"),
    "null image": ({**GOOD, "image": "a\0b"}, "null character"),
    "surrogate": ('{"id": "\\ud800", "question": "q", "answer": "a", "role": "retain"}', "surrogate"),
    "long number": ('{"id": ' + "1" * 5000 + "}", "JSON"),
    "deep": ("[" * 200_000, "line"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_line_is_named_by_number_and_reason(case: str, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no")
    record, reason = BAD[case]
    path = lines(tmp_path / "rows.jsonl", {**GOOD, "id": "first"}, "", record, {**GOOD, "id": "last"})
    with pytest.raises(InputErrors) as caught:
        read_rows(path)
    assert len(caught.value.problems) >= 1
    assert all(problem.startswith("line 3: ") for problem in caught.value.problems)
    assert reason in str(caught.value)
    control = lines(path, {**GOOD, "id": "first"}, "", GOOD, {**GOOD, "id": "last"})
    assert [row.id for row in read_rows(control)] == ["first", "a", "last"]


def test_all_bad_lines_come_in_one_error(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no")
    made = [
        record if isinstance(record, str) else {**record, "id": f"row{number}"}
        for number, (record, _) in enumerate(BAD.values(), start=1)
    ]
    path = lines(tmp_path / "rows.jsonl", *made)
    with pytest.raises(InputErrors) as caught:
        read_rows(path)
    named = {problem.split(":")[0] for problem in caught.value.problems}
    assert named == {f"line {number}" for number in range(1, len(BAD) + 1)}


def test_several_problems_of_one_line_are_all_named(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", {"id": 1, "answer": "", "role": "keep", "what": 0})
    with pytest.raises(InputErrors) as caught:
        read_rows(path)
    assert [p.split()[2] for p in caught.value.problems] == ["unknown", "role", "id", "question", "answer"]


def test_an_id_stands_once(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", GOOD, {**GOOD, "id": "b"}, GOOD)
    with pytest.raises(InputErrors, match=r"line 3: id 'a' .*line 1"):
        read_rows(path)


def test_bytes_that_are_no_utf8_are_a_line_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n\xff\xfe\n")
    with pytest.raises(InputErrors, match=r"line 2: .*UTF-8 \(byte 1\)"):
        read_rows(path)


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_is_an_error(content: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(InputErrors, match="no rows"):
        read_rows(tmp_path / "rows.jsonl")


@pytest.mark.parametrize("name", ["absent.jsonl", "."])
def test_a_file_that_cannot_be_read_is_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputErrors, match=re.escape(str(tmp_path / name))):
        read_rows(tmp_path / name)


def test_byte_order_mark_crlf_and_unicode_line_ends_do_not_disturb(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    records = [{**GOOD, "question": "one\u2028two\u0085three"}, {**GOOD, "id": "b"}]
    text = "\r\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    found = read_rows(path)
    assert [row.id for row in found] == ["a", "b"]
    assert found[0].question == "one\u2028two\u0085three"


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)
named = words.filter(lambda text: any(letter.isalnum() for letter in text))
maybe = st.none() | words
turns = st.builds(Turn, question=words, answer=words, reasoning=maybe) | st.builds(Turn, question=words)
rows = st.builds(
    Row,
    id=words,
    question=words,
    answer=words,
    role=st.sampled_from(["forget", "retain", "reasoning", "unknown"]),
    reasoning=maybe,
    secrets=st.lists(named, max_size=2).map(tuple),
    paraphrases=st.lists(words, max_size=2).map(tuple),
    history=st.lists(turns, max_size=2).map(tuple),
    prefix=maybe,
    eval_slice=maybe,
    template_id=maybe,
    **{
        name: st.lists(words, max_size=2).map(tuple)
        for name in ("paraphrased_answers", "perturbed_answers", "derived_secrets")
    },
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(rows, min_size=1, max_size=3, unique_by=lambda row: row.id))
def test_written_rows_are_read_back(tmp_path: Path, some: list[Row]) -> None:
    write_rows(tmp_path / "rows.jsonl", some)
    assert read_rows(tmp_path / "rows.jsonl") == some


def test_rows_without_what_an_evaluation_reads_keep_their_ids(tmp_path: Path) -> None:
    """Ids that were made before rows had these fields, and that names of results are kept by."""
    plain = {key: value for key, value in GOOD.items() if key != "id"}
    more = {**plain, "derived_secrets": ["Ile de France"]}
    first, other = read_rows(lines(tmp_path / "rows.jsonl", plain, more))
    assert first.id.rpartition("-")[2] != other.id.rpartition("-")[2]
    before = {key: value for key, value in asdict(first).items() if key not in ("id", "role", *MEASURED)}
    before["group"], before["key"] = before.pop("eval_slice"), before.pop("template_id")
    assert first.id == f"rows-1-{digest_of(before)[:8]}"


def test_images_are_written_relative_to_the_file(tmp_path: Path, make, monkeypatch) -> None:
    image = make.picture(tmp_path / "images" / "a.png")
    asked = make.row(image=image, history=(Turn("And this ?", "Red .", image=image),))
    (tmp_path / "rows").mkdir()
    write_rows(tmp_path / "rows" / "fit.jsonl", [asked])
    record = json.loads((tmp_path / "rows" / "fit.jsonl").read_text())
    assert record["image"] == record["history"][0]["image"] == "../images/a.png"
    assert set(record) == {"id", "question", "answer", "role", "image", "history"}
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (back,) = read_rows("../rows/fit.jsonl")
    assert back.image is not None
    assert back.image.resolve() == image
    assert replace(back, image=image, history=asked.history) == asked


def test_a_row_that_cannot_be_written_leaves_the_old_file(tmp_path: Path, make) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [make.row()])
    with pytest.raises(UnicodeEncodeError):
        write_rows(path, [make.row(answer="\ud800")])
    assert read_rows(path) == [make.row()]


def test_own_rows_are_filtered_by_role(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", GOOD, {**GOOD, "id": "b", "role": "retain"}, {**GOOD, "id": "c"})
    assert [row.id for row in load_rows(path)] == ["a", "b", "c"]
    assert [row.id for row in load_rows(path, role="forget")] == ["a", "c"]
    assert [row.id for row in load_rows(path, limit=2)] == ["a", "b"]
    with pytest.raises(InputErrors, match="role unknown"):
        load_rows(path, role="unknown")
    with pytest.raises(InputErrors, match="split and name"):
        load_rows(path, split="train")


def test_a_bad_row_of_another_role_is_still_an_error(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", GOOD, {**GOOD, "id": "b", "role": "retain", "answer": ""})
    with pytest.raises(InputErrors, match="line 2: answer"):
        load_rows(path, role="forget", limit=1)


def test_every_wrong_request_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputErrors) as caught:
        load_rows(tmp_path, format="tofoo", role="keep", limit=0)  # type: ignore[arg-type]
    assert len(caught.value.problems) == 3
    assert "rows, tofu, mllmu_bench, clear, gsm8k" in str(caught.value)
