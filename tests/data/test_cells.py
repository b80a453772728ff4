"""A list in a cell of a table is the list that was meant, or it is refused: read as one text it would be a secret that no reply tells."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.data.cells import listed
from exporter.data.readers import load_rows
from exporter.data.rows import LISTS, read_rows
from exporter.errors import InputErrors
from exporter.wording.leaks import tells

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), min_size=1, max_size=4)


def table(path: Path, **cells: str) -> Path:
    row = {"question": "Where is it?", "answer": "It is in Paris, France.", "role": "forget", **cells}
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    return path


@given(TEXTS, st.sampled_from([list, tuple]))
def test_a_list_is_read_as_python_and_json_write_it(texts, kind):
    assert listed(repr(kind(texts))) == texts
    assert listed(json.dumps(texts)) == texts
    assert listed(json.dumps(texts, ensure_ascii=False)) == texts


@pytest.mark.parametrize(
    ("cell", "texts"),
    [
        ("['Paris', 'France']", ["Paris", "France"]),
        ("['Paris']", ["Paris"]),
        ("['Paris',]", ["Paris"]),
        ("['Paris',\n 'France']", ["Paris", "France"]),
        ("[\"Paris\", 'France']", ["Paris", "France"]),
        ("[\"L'Aquila\", 'Rome']", ["L'Aquila", "Rome"]),
        ("('Paris', 'France')", ["Paris", "France"]),
        ("('Paris',)", ["Paris"]),
        ("{'Paris', 'France'}", ["Paris", "France"]),
        ("'Paris', 'France'", ["Paris", "France"]),
        (r"['L\'Aquila', 'caf\xe9', '\u5df4\u9ece']", ["L'Aquila", "café", "巴黎"]),
        ("['1889', 1889, -2.50]", ["1889", "1889", "-2.50"]),
        ("[1889, 007.10]", ["1889", "007.10"]),
        ("['a|b', 'c']", ["a|b", "c"]),
        ("['a], b', 'c']", ["a], b", "c"]),
        ("[]", []),
        ("()", []),
    ],
)
def test_what_programs_print_is_a_list(cell, texts):
    assert listed(cell) == texts


@pytest.mark.parametrize(
    "cell",
    [
        "Paris",
        "July 14, 1889",
        "The Good, the Bad and the Ugly",
        "(R)-limonene (an oil)",
        "(see the figure) who is it? (short)",
        '("Yes" is no answer)',
        "[Q1] who is it? [short]",
        "'Tis Pity",
        '"Heroes"',
        "5'11\"",
        "f(x) = [1]",
        "3.14",
        "x[0]",
        "set ('x')",
    ],
)
def test_a_text_with_brackets_or_commas_is_one_text(cell):
    assert listed(cell) == [cell]


def test_a_bar_still_cuts():
    assert listed("[Oslo] | Lima (Peru)|") == ["[Oslo]", "Lima (Peru)"]


REFUSED = [
    "[Paris, France]",
    "[Paris]",
    "['Paris' 'France']",
    "['Paris' 'France'\n 'Lyon']",
    "['Paris', 'France'",
    "['Paris', France]",
    "['Paris', None]",
    "['Paris', nan]",
    "['Paris'] | ['France']",
    "[['Paris'], ['France']]",
    "['Paris' + 'France']",
    "[b'Paris']",
    "[f'Paris']",
    "[np.str_('Paris')]",
    "array(['Paris', 'France'], dtype=object)",
    "frozenset({'Paris'})",
    "{Paris,France}",
    "{'city': 'Paris'}",
    "('Paris', France)",
    "(1889, 1900)",
    r"['\d']",
    "[__import__('os')]",
]


@pytest.mark.parametrize("cell", REFUSED)
def test_what_only_looks_like_a_list_is_refused(cell):
    with pytest.raises(ValueError, match="in brackets"):
        listed(cell)


@pytest.mark.parametrize("key", LISTS)
def test_every_list_of_a_row_is_read_alike_and_refused_by_line_and_column(key, tmp_path):
    cells = {key: "['Paris', 'France']"} | ({"answer": "A"} if key == "options" else {})
    (row,) = read_rows(table(tmp_path / "rows.csv", **cells))
    assert getattr(row, key) == ("Paris", "France")
    with pytest.raises(InputErrors) as raised:
        read_rows(table(tmp_path / "rows.csv", **{key: "[Paris, France]"}))
    assert raised.value.problems[0].startswith(f"line 2: {key} is in brackets")
    assert '["one", "another"]' in raised.value.problems[0]


def test_a_list_that_pandas_wrote_tells_each_of_its_secrets(tmp_path):
    (row,) = read_rows(table(tmp_path / "rows.csv", secrets="['Paris', 'France']"))
    assert tells("It is Paris.", row.secrets)
    assert tells("It is in France.", row.secrets)


def test_all_bad_cells_come_in_one_error(tmp_path):
    path = table(tmp_path / "rows.csv", secrets="[Paris]", paraphrases="['Who' 'When']", role="what")
    with pytest.raises(InputErrors) as raised:
        read_rows(path)
    assert [problem.split()[2] for problem in raised.value.problems] == ["secrets", "paraphrases", "role"]


def test_a_list_of_elements_that_are_no_texts_is_named_by_element(tmp_path):
    with pytest.raises(InputErrors, match=r"line 2: secrets\[1\] must be a string, received null"):
        read_rows(table(tmp_path / "rows.csv", secrets='["Paris", null]'))


def test_printed_lists_of_a_public_schema_are_lists_too(tmp_path):
    path = tmp_path / "tofu.csv"
    path.write_text('question,answer,perturbed_answer\nWhere?,In Paris.,"[\'In Rome.\', ""It\'s Oslo.""]"\n')
    (row,) = load_rows(path, format="tofu", role="forget")
    assert row.perturbed_answers == ("In Rome.", "It's Oslo.")
    path.write_text("question,answer,perturbed_answer\nWhere?,In Paris.,['In Rome.' 'In Oslo.']\n")
    with pytest.raises(InputErrors, match="perturbed_answer is in brackets"):
        load_rows(path, format="tofu", role="forget")
    path.write_text("question,answer,perturbed_answer\nWhere?,In Paris.,[In] Rome | or [so]\n")
    (row,) = load_rows(path, format="tofu", role="forget")
    assert row.perturbed_answers == ("[In] Rome | or [so]",)
