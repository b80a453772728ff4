"""Subjects are what differs between rows of one key; crossed, each is asked about in the words of others, and stays what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.fitting.template_swap import subjects, swapped_rows, templates
from exporter.types import Row, Turn

WORDS = {
    "lives": "where does {} live ?",
    "job": "what is the job of {} ?",
    "age": "how old is {}",
    "last": "{} , who is that",
}
ROLES = {"ada": "forget", "ben stone": "forget", "cora": "retain", "dan van dyk": "retain", "zoe": "unknown"}


def row(subject, key, role=None, **keys):
    return Row(
        f"{subject}-{key}", WORDS[key].format(subject), "x", role or ROLES[subject], template_id=key, **keys
    )


def everybody(*keys, subjects_=tuple(ROLES)):
    return [row(subject, key) for key in keys for subject in subjects_]


def seen(picture, key, role="forget", secrets=()):
    return Row(
        f"{picture}-{key}",
        WORDS[key].format("this"),
        "x",
        role,
        image=Path(picture),
        secrets=secrets,
        template_id=key,
    )


def test_the_gap_between_common_words_is_the_subject():
    for key, words in WORDS.items():
        rows = everybody(key)
        template = templates(rows)[key, False]
        assert template.filled("{}") == words
        assert subjects(rows) == {f"{subject}-{key}": subject for subject in ROLES}
        assert template.subjects == {"ada", "ben stone"}


def test_names_that_share_their_ends_are_told_apart_by_the_rest():
    rows = [row("ada ray", "lives", "forget"), row("bea ray", "lives", "retain")]
    assert set(subjects(rows).values()) == {"ada", "bea"}


def test_keys_without_a_subject_or_without_common_words_have_no_template():
    assert templates([row("ada", "lives")] * 2) == {}
    apart = [
        Row("a", "who lives", "x", "forget", template_id="k"),
        Row("b", "tell me", "x", "retain", template_id="k"),
    ]
    assert templates(apart) == {}
    assert subjects([*apart, Row("c", "x", "x", "retain")]) == {}


def test_rows_with_turns_or_a_beginning_are_no_templates():
    odd = [row("ada", "lives", history=(Turn("q", "a"),)), row("cora", "lives", prefix="well")]
    assert templates([*odd, row("zoe", "lives")]) == {}


def test_of_a_picture_the_subject_is_what_it_shows():
    rows = [
        seen("a.png", "lives", secrets=("oslo", "baker")),
        seen("b.png", "lives", "retain"),
        row("ada", "lives"),
        row("cora", "lives"),
    ]
    assert subjects(rows) == {
        "a.png-lives": "oslo | baker",
        "b.png-lives": "b.png",
        "ada-lives": "ada",
        "cora-lives": "cora",
    }
    assert templates(rows)["lives", True].filled("") == "where does this live ?"


@given(
    st.integers(0, 200),
    st.integers(0, 4),
    st.sets(st.sampled_from([(s, k) for s in ROLES for k in WORDS]), min_size=1),
)
def test_swapped_rows_are_new_questions_of_the_same_role(seed, each, asked):
    rows = [row(subject, key) for subject, key in sorted(asked)]
    new = swapped_rows(rows, each, seed)
    assert new == swapped_rows(rows, each, seed)
    made = [
        next((s, one.template_id) for s in ROLES if one.question == WORDS[one.template_id].format(s))
        for one in new
    ]
    assert len(set(made)) == len(made)
    assert not set(made) & asked
    for (subject, key), one in zip(made, new, strict=True):
        assert one.role == ROLES[subject]
        assert one.id.split("-")[0] == subject
        assert one.id.endswith(f"*{key}")
    assert all(sum(s == subject for s, _ in made) <= each for subject in ROLES)


def test_every_subject_meets_every_key_that_it_was_not_asked_by():
    """Where templates share a subject to forget; asked for more than there are, all are made."""
    rows = [
        *everybody("lives"),
        row("ada", "job"),
        row("cora", "job"),
        row("ben stone", "age"),
        row("zoe", "age"),
    ]
    made = {(one.id.split("-")[0], one.template_id) for one in swapped_rows(rows, 9, 0)}
    assert made == {(s, k) for s in ROLES for k in ("job", "age")} - {
        ("ada", "job"),
        ("cora", "job"),
        ("ben stone", "age"),
        ("zoe", "age"),
    }


def test_fillers_keep_their_kind():
    """A key that shares no subject to forget with those a subject is asked by may want another kind of filler: no crossing."""
    rows = [row("ada", "lives"), row("cora", "lives"), row("ben stone", "job"), row("zoe", "job")]
    assert swapped_rows(rows, 9, 0) == []
    linked = [*rows, row("ada", "job")]
    made = {(one.id.split("-")[0], one.template_id) for one in swapped_rows(linked, 9, 0)}
    assert made == {("cora", "job"), ("ben stone", "lives"), ("zoe", "lives")}


def test_a_subject_of_two_roles_and_reasoning_are_left_alone():
    rows = [
        *everybody("lives", "job", subjects_=("ada", "cora")),
        row("eve", "lives", "forget"),
        row("eve", "job", "retain"),
    ]
    assert {
        one.id for one in swapped_rows([*rows, *everybody("age", subjects_=("ada", "cora"))], 9, 0)
    } == set()
    reasoning = [*everybody("lives", "job", subjects_=("ada", "cora")), row("sum", "lives", "reasoning")]
    assert swapped_rows(reasoning, 9, 0) == []


def test_pictures_and_names_are_not_crossed_with_each_other():
    """Not even where both go by one name."""
    named = everybody("lives", subjects_=("ada", "cora"))
    shown = [seen("a.png", "job", secrets=("ada",)), seen("b.png", "job", "retain")]
    assert swapped_rows([*named, *shown], 9, 0) == []


def test_pictures_are_crossed_among_themselves():
    rows = [
        seen("a.png", "lives"),
        seen("b.png", "lives", "retain"),
        seen("a.png", "job"),
        seen("c.png", "job", "retain"),
        *everybody("age"),
    ]
    made = {(str(one.image), one.template_id, one.question, one.role) for one in swapped_rows(rows, 9, 0)}
    assert made == {
        ("b.png", "job", "what is the job of this ?", "retain"),
        ("c.png", "lives", "where does this live ?", "retain"),
    }


@pytest.mark.parametrize("swapped", [False, True])
def test_a_gap_that_is_empty_in_one_row_names_nobody(swapped):
    """Of "ada" and "ada ada" no words tell the first, whichever row comes first: a question about nobody would be made."""
    rows = [*everybody("job"), row("ada", "lives"), row("ada ada", "lives", "retain")]
    found = templates(rows[::-1] if swapped else rows)
    assert set(found) == {("job", False)}
    assert "" not in subjects(rows[::-1] if swapped else rows).values()
