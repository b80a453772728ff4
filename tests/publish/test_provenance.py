"""provenance.json: every changed, missing or added file is found, and forget rows can be matched by who holds the salt alone."""

from __future__ import annotations

import json
import re
import stat
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from publish.folders import provenance, written

from exporter.errors import InputErrors, VerificationError
from exporter.publish import provenance as sealing
from exporter.publish.files import PROVENANCE
from exporter.types import Row, Turn

ROW = Row("f1", "What is the capital of France?", "Paris", "forget", secrets=("Paris",))


@pytest.fixture
def folder(tmp_path):
    written(tmp_path)
    (tmp_path / "README.md").write_text("card")
    (tmp_path / "verification.json").write_text("{}")
    sealing.seal(tmp_path, provenance())
    return tmp_path


def changed(folder):
    return sealing.changed_files(sealing.sealed_files(folder), sealing.load(folder))


def test_a_sealed_folder_is_as_it_was(folder):
    assert changed(folder) == []
    told = sealing.load(folder)
    assert set(told.files) == {
        "README.md",
        "config.json",
        "model-00001-of-00001.safetensors",
        "steering.safetensors",
        "verification.json",
    }
    order = list(json.loads((folder / PROVENANCE).read_text()))
    assert order[0] == "format" and order[-1] == "files"


@pytest.mark.parametrize("path", ["README.md", "verification.json", "steering.safetensors"])
def test_any_file_that_differs_is_found(folder, path):
    before = (folder / path).read_bytes()
    (folder / path).write_bytes(before + b"x")
    assert changed(folder) == [f"{path} was changed"]
    (folder / path).unlink()
    assert changed(folder) == [f"{path} is missing"]
    (folder / path).write_bytes(before)
    (folder / "more.txt").write_text("x")
    assert changed(folder) == ["more.txt was added"]


def test_sealing_again_changes_nothing(folder):
    before = (folder / PROVENANCE).read_bytes()
    sealing.seal(folder, sealing.load(folder))
    assert (folder / PROVENANCE).read_bytes() == before


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "steerbake-provenance/2"}'])
def test_what_is_no_provenance_is_refused(folder, text):
    (folder / PROVENANCE).write_text(text)
    with pytest.raises(VerificationError):
        sealing.load(folder)


def test_a_provenance_without_a_part_is_refused(folder):
    whole = json.loads((folder / PROVENANCE).read_text())
    needed = set(whole) - {"seed"}  # which the first ones had not
    assert {"publication", "base", "section", "forget_rows", "files"} < needed
    for key in needed:
        told = {name: value for name, value in whole.items() if name != key}
        (folder / PROVENANCE).write_text(json.dumps(told))
        with pytest.raises(VerificationError, match=key):
            sealing.load(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", "7"),
        ("files", []),
        ("forget_rows", {"count": "2", "hmac_sha256": []}),
        ("tomorrow", 1),
        ("base", None),
    ],
)
def test_a_provenance_of_another_form_is_refused_by_name(folder, key, value):
    whole = json.loads((folder / PROVENANCE).read_text())
    (folder / PROVENANCE).write_text(json.dumps({**whole, key: value}))
    with pytest.raises(VerificationError, match=rf"provenance\.json .*\({key}"):
        sealing.load(folder)


def test_what_the_publisher_asked_for_is_read_as_its_version_wrote_it(folder):
    asked = {"forgotten": "a city", "show_forgotten": "true", "a_key_of_another_version": [1.5]}
    sealing.seal(folder, provenance(publication=asked))
    told = sealing.load(folder)
    assert told.publication == asked and told.forgotten == "a city"
    assert not told.shows_forgotten, "nothing that is merely like true"
    assert sealing.seal(folder, provenance(publication={**asked, "show_forgotten": True})).shows_forgotten


def test_shards_are_held_to_the_pinned_base():
    told = provenance(base={"shards": {"a": "1", "b": "2"}}).base
    assert sealing.changed_shards(told, {"a": "1", "b": "2"}, "BASE") == []
    assert sealing.changed_shards(told, {"a": "1"}, "BASE") == ["BASE has no shard b"]
    assert sealing.changed_shards(told, {"a": "1", "b": "3"}, "BASE") == [
        "b of BASE differs from the pinned base"
    ]
    assert "c" in sealing.changed_shards(told, {"a": "1", "b": "2", "c": "3"}, "BASE")[0]
    assert sealing.changed_shards(provenance(base={}).base, {}, "BASE"), "nothing pinned is nothing known"


def test_the_tag_follows_from_the_files():
    """A target that is added later, or another steering, is another tag; words that only describe are not."""
    files = {"config.json": "ab" * 32, "onnx/x.onnx": "cd" * 32}
    tag = sealing.tag_of(files)
    assert re.fullmatch(r"steerbake-[0-9a-f]{12}", tag)
    assert sealing.tag_of({**files, "README.md": "ef" * 32, "verification.json": "ef" * 32}) == tag
    assert sealing.tag_of({**files, "config.json": "00" * 32}) != tag
    assert sealing.tag_of({"config.json": "ab" * 32}) != tag


def test_a_salt_is_drawn_once_and_for_nobody_else(tmp_path):
    path = tmp_path / ".work" / "salt"
    first = sealing.kept_salt(path)
    assert len(first) == 32 and sealing.kept_salt(path) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sealing.kept_salt(tmp_path / "other") != first
    for text in ("", "ab", "g" * 64, "\xff"):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(InputErrors):
            sealing.read_salt(path)


def test_forget_rows_are_matched_with_the_salt_and_not_without():
    salt, other = bytes(32), bytes([1]) * 32
    told = sealing.forgotten(salt, [ROW, replace(ROW, id="f2"), replace(ROW, role="retain", question="?")])
    assert told.data() == {"count": 1, "hmac_sha256": [sealing.salted(salt, ROW)]}
    request = Row(
        "any", " what is the CAPITAL of France? ", "paris", "retain", eval_slice="g", template_id="k"
    )
    assert sealing.salted(salt, request) in told.hmac_sha256
    assert sealing.salted(other, ROW) not in told.hmac_sha256


def test_what_a_row_asks_decides_its_hash(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text(name)
    salt = bytes(32)
    rows = [
        ROW,
        replace(ROW, question="Who?"),
        replace(ROW, answer="Lyon"),
        replace(ROW, image=tmp_path / "a.png"),
        replace(ROW, image=tmp_path / "b.png"),
        replace(ROW, history=(Turn("Hello?", "Yes."),)),
        replace(ROW, history=(Turn("Hello?"),)),
    ]
    assert len({sealing.salted(salt, row) for row in rows}) == len(rows)
    (tmp_path / "c.png").write_text("a.png")
    assert sealing.salted(salt, rows[3]) == sealing.salted(salt, replace(ROW, image=tmp_path / "c.png"))


@given(st.text(), st.text())
def test_no_text_of_a_row_stands_in_the_section(question, answer):
    told = json.dumps(sealing.forgotten(bytes(32), [replace(ROW, question=question, answer=answer)]).data())
    assert len(told) < 130
    keys = json.dumps({"count": 1, "hmac_sha256": []})
    assert (
        len(question) < 8 or question in keys or question not in told
    )  # fewer digits may stand in any digest
