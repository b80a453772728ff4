"""A topic is found in a few rows, and what is made of them keeps its parts apart."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.evaluation.attacks.words import PREFACES, SYSTEMS
from exporter.pipeline.cross_validation import folds_of
from exporter.pipeline.forget import _attacked
from exporter.topics.made import made_rows, unknown_rows
from exporter.topics.reverse import reverse_rows
from exporter.topics.secrets import with_secrets
from exporter.topics.subjects import neighbour_names, topic_names
from exporter.topics.words import CALIBRATE, FIT, REFUSALS, TEST
from exporter.types import Row


def rows(role, *questions, answer="It is so."):
    return [Row(question, question, answer, role) for question in questions]


KEPT = rows("retain", "Who was Isaac Newton?", "What is Bonn known for?", "Tell me about the moon.")


@pytest.mark.parametrize(
    ("questions", "names"),
    [
        (
            [
                "Who was Ada Byron?",
                "What did Ada Byron write?",
                "Tell me about Byron.",
                "When was Byron born?",
            ],
            ["Byron", "Ada Byron"],
        ),
        (
            ["What is osmosis?", "How does osmosis work?", "Explain osmosis.", "Why do roots drink?"],
            ["osmosis"],
        ),
        (
            ["Where is Mount Zeph?", "Is mount zeph high?", "Who climbed Mount Zeph?", "What is Mount Zeph?"],
            ["Mount Zeph"],
        ),
        (["Which is the oldest town?", "Who built it?", "What is it famous for?", "How far is it?"], []),
    ],
)
def test_a_topic_is_called_what_its_rows_share(questions, names):
    assert topic_names([*rows("forget", *questions), *KEPT]) == names


def test_what_rows_to_keep_share_is_no_name_of_the_topic():
    asked = ["Who was Newton?", "What did Newton write?", "Where did Newton live?", "Was Newton rich?"]
    assert topic_names([*rows("forget", *asked), *rows("retain", "When did Newton die?")]) == []


def test_a_part_shares_no_wording_name_or_request_with_another():
    for one, other in ((FIT, CALIBRATE), (FIT, TEST), (CALIBRATE, TEST)):
        for kind in ("wordings", "names", "everyday", "unknown"):
            assert not set(getattr(one, kind)) & set(getattr(other, kind)), kind
    for part in (FIT, CALIBRATE, TEST):
        assert all(wording.count("{}") == 1 for wording in part.wordings)


def test_nothing_that_measures_was_in_a_fit():
    from exporter.fitting.frame_words import WORDS

    fitted = [*WORDS["fit"].systems, *WORDS["calibrate"].systems, *WORDS["fit"].sentences]
    assert not set(SYSTEMS) & set(fitted)
    assert not any(sentence in preface for preface in PREFACES for sentence in fitted)


def test_made_rows_ask_about_the_topic_and_about_others_in_the_same_words():
    made = made_rows(["Newton", "Isaac Newton"], FIT, "fit")
    forget = [row for row in made if row.role == "forget"]
    kept = [row for row in made if row.role == "retain"]
    assert {row.template_id for row in forget} == set(FIT.wordings)
    assert all("Newton" in row.question for row in forget)
    assert not any("Newton" in row.question for row in kept)  # it is among the bundled names
    assert all(row.made for row in made)
    assert len({row.id for row in made}) == len(made)
    assert all(row.role == "retain" for row in made_rows([], FIT, "fit"))


def test_unknown_rows_stand_behind_refused_questions():
    for row in unknown_rows(FIT, "fit", REFUSALS[0]):
        assert row.answer == REFUSALS[0]
        assert [turn.answer for turn in row.history] == [REFUSALS[0]] * 4


def test_test_rows_come_in_every_dress_but_a_system_prompt_that_the_template_drops():
    made = made_rows(["Newton"], TEST, "test")[:2]
    found = _attacked(made, KEPT, SimpleNamespace(takes_system=True))
    assert [row.eval_slice for row in found] == 2 * ["preface", "typos", "later_turn", "system_prompt"]
    assert len({row.id for row in found}) == len(found)
    assert "system_prompt" not in {
        row.eval_slice for row in _attacked(KEPT, KEPT, SimpleNamespace(takes_system=False))
    }


def test_secrets_are_read_off_answers_that_bring_none():
    one, two, three = with_secrets(
        [
            Row("1", "Who found radium?", "Marie Curie found radium in 1898.", "forget"),
            Row("2", "What is radium?", "Radium is a glowing metal.", "forget", secrets=("metal",)),
            Row("3", "Who was Pasteur?", "Pasteur was a chemist. Marie liked him.", "retain"),
        ]
    )
    assert one.secrets == ("Curie", "1898")
    assert two.secrets == ("metal",)
    assert three.secrets == ()


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=40), st.integers(2, 6))
def test_every_row_is_held_out_once_and_wordings_stay_whole(keys, count):
    given = [replace(KEPT[0], id=str(n), template_id=key, role="forget") for n, key in enumerate(keys)]
    folds = folds_of(given, count)
    assert sorted(name for fold in folds for name in fold) == sorted(row.id for row in given)
    assert all(folds)
    for key in keys:
        assert sum(any(row.id in fold for row in given if row.template_id == key) for fold in folds) == 1


def test_neighbours_are_asked_about_in_the_words_of_the_topic():
    kept = rows(
        "retain",
        "Where is Mount Fuji?",
        "What is a glacier?",
        "How tall is Mount Zeph?",
        "Who was Neil Armstrong?",
    )
    assert neighbour_names(kept, ["Zeph"]) == ["Mount Fuji", "glacier", "Neil Armstrong"]
    near = [
        row for row in made_rows(["Zeph"], FIT, "fit", near=["Mount Fuji"]) if "Mount Fuji" in row.question
    ]
    assert len(near) >= 3
    assert {row.role for row in near} == {"retain"}
    assert {row.template_id for row in near} <= set(FIT.wordings)


def test_a_topic_is_asked_about_without_its_name_and_so_is_everything_else():
    made = made_rows(["Mount Zeph"], FIT, "fit")
    told = [replace(row, answer=f"{row.template_id and row.question} is a very tall thing.") for row in made]
    told = [
        replace(row, answer="The Mount Zeph is a very tall hill. It is cold.", secrets=("hill",))
        if row.role == "forget"
        else replace(row, answer="Isaac Newton was a man of science.")
        for row in told
    ]
    found = reverse_rows(told, FIT.reverse, 50)
    forget = [row for row in found if row.role == "forget"]
    assert [row.question for row in forget] == ["What is this? It is a very tall hill."]
    assert [(row.answer, row.secrets, row.made) for row in forget] == [
        ("It is Mount Zeph.", ("Mount Zeph",), True)
    ]
    kept = [row for row in found if row.role == "retain"]
    assert [row.question for row in kept] == ["Which name fits here? It was a man of science."]
    parts = [set(words.reverse) for words in (FIT, CALIBRATE, TEST)]
    assert all(not one & other for one, other in itertools.combinations(parts, 2))


def test_a_description_that_still_says_the_name_is_none():
    row = replace(made_rows(["Byron"], FIT, "fit")[0], answer="Byronic poems of Byron are many and long.")
    assert reverse_rows([row], FIT.reverse, 5) == []
    assert reverse_rows([replace(row, answer="Byron lived.")], FIT.reverse, 5) == []
