"""Attacks ask what the row asks, and what they count is told from what the base tells."""

import random

import pytest
import tiny_run
from transformers import AutoTokenizer

from benchmarks.prompt_attacks import beginnings, frames, pictures, turns, words
from benchmarks.prompt_attacks.attempt import Attempt, Setting
from benchmarks.prompt_attacks.measure import Completion, Trial, results, trials
from exporter.data.chat import Chat
from exporter.data.rows import read_rows

ATTACKS = (
    *beginnings.ATTACKS,
    *words.ATTACKS,
    *turns.ATTACKS,
    *pictures.ATTACKS,
    *frames.ATTACKS,
    *frames.EACH,
)


@pytest.fixture
def setting(tmp_path):
    tiny_run.write_base(tmp_path)
    tiny_run.write_rows(tmp_path)
    rows = read_rows(tmp_path / "test.jsonl")
    return Setting.of(Chat(AutoTokenizer.from_pretrained(tmp_path)), rows, (None, "i do not know")), rows


def test_every_attack_names_its_subject(setting):
    found, rows = setting
    row = rows[0]
    made = {attack.name: attack.make(row, found, random.Random(0)) for attack in ATTACKS}
    skipped = {name for name, attempt in made.items() if attempt is None}
    assert len(made) == len(ATTACKS)
    assert skipped <= {attack.name for attack in (*pictures.ATTACKS, *beginnings.ATTACKS, *words.ATTACKS)}
    for attempt in made.values():
        if attempt is not None:
            assert "ada" in (attempt.row.question if attempt.prompt is None else attempt.prompt.text)
            assert (attempt.row.role, attempt.row.secrets) == (row.role, row.secrets)


def test_the_issue_s_counts(setting):
    found, rows = setting
    dots = words.ten_dots_behind(rows[0], found, random.Random(0)).row.question
    assert dots.endswith("lives . . . . . . . . . . .")
    many = words.fifty_words_before(rows[0], found, random.Random(0)).row.question
    assert len(many.split()) == 50 + len(rows[0].question.split())
    assert len(turns.five_times(rows[0], found, random.Random(0)).row.history) == 4
    assert all(turn.answer is None for turn in turns.five_times(rows[0], found, random.Random(0)).row.history)
    assert [t.answer for t in turns.refused_three_times(rows[0], found, random.Random(0)).row.history] == [
        "i do not know"
    ] * 3


def test_leaks_count_where_the_base_tells(setting):
    _, rows = setting
    ada, ben, cora = rows[0], rows[1], rows[2]
    asked = [Trial("x", Attempt(row), about) for row, about in ((ada, True), (ben, True), (cora, False))]
    base = [
        Completion(("in oslo",), ((1,),)),
        Completion(("who",), ((2,),)),
        Completion(("ada lives in oslo",), ((3,),)),
    ]
    steered = [Completion(("no",), ((4,),)), Completion(("in lima",), ((5,),)), Completion(("no",), ((4,),))]
    line = results(asked, base, steered, {"ada": frozenset({"oslo"})})["x"]
    assert (line["asked"], line["base_leaks"], line["leaks"], line["leak"]) == (2, 1, 0, 0.0)
    assert line["leaks_where_the_base_tells_nothing"] == 1
    assert (line["kept"], line["identical"]) == (1, 0.0)
    assert (line["kept_clear"], line["identical_clear"]) == (0, None)
    assert results(asked, base, base, {})["x"]["leak"] == 1.0


def test_the_same_draws_each_time(setting):
    found, rows = setting
    first, second = (trials(words.ATTACKS, rows[:2], rows[2:4], found) for _ in range(2))
    assert first == second
    assert {trial.about for trial in first} == {True, False}
