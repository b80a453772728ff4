"""What forget rows hold is found in a text, and what everybody says is not taken for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.types import Role, Row, Turn
from exporter.verify.secrecy import Secrecy
from exporter.wording.words import words

KEPT = ("ada", "ben", "cora", "dan", "eva", "finn", "gus", "hal", "ivy", "jan", "kim", "lea")


def row(identity: str, role: Role, question: str, answer: str, **fields: object) -> Row:
    return Row(identity, question, answer, role, **fields)  # type: ignore[arg-type]


def kept() -> list[Row]:
    return [
        row(
            name,
            "retain",
            f"Where does {name} live?",
            f"{name} lives in {name}ville.",
            reasoning=f"It is {name}.",
        )
        for name in KEPT
    ]


def forgotten(**fields: object) -> Row:
    return row(
        "f", "forget", "Where does Walt Elwood live?", "He lives in Oslo.", **{"secrets": ("Oslo",), **fields}
    )


def test_secrets_answers_and_questions_are_told_and_other_words_are_not() -> None:
    secrecy = Secrecy.of([forgotten(reasoning="The king's town is where he lives."), *kept()])
    for text in (
        "It is in oslo.",
        "OSLO!",
        "so he lives  in Oslo",
        'asked "where does walt elwood live?"',
        "the king’s town is where he lives",
    ):
        assert secrecy.tells(text), text
    for text in ("it is _Oslo_", "**Os**lo", "O S L O", "Os\u00adlo", "\u041eslo", "Oslo-based", "oslo은"):
        assert secrecy.tells(text) and secrecy.hints(text), text
    for text in ("_Walt_", "Wa\u200blt", "W\u00e1lt", "**Elwood**s", "#askWaltAbout"):
        assert secrecy.hints(text), text
    for text in ("where two people live", "Walt is not mentioned by his secret", "osloite", ""):
        assert not secrecy.tells(text), text


@pytest.mark.parametrize(
    "text", ["walt", "Is Elwood tall?", "an Osloite", "preoslo", "He moved to oslo.", "WALT'S"]
)
def test_a_name_or_a_part_of_a_secret_hints(text: str) -> None:
    assert Secrecy.of([forgotten(), *kept()]).hints(text)


def test_words_that_kept_rows_commonly_use_do_not_hint() -> None:
    secrecy = Secrecy.of([forgotten(), *kept()])
    assert not secrecy.hints("Where does Cora live? Cora lives in Coraville.")
    # The control: with one kept row instead of twelve nothing is common.
    assert Secrecy.of([forgotten(), *kept()[:1]]).hints("Where does Cora live?")


def test_a_name_that_two_kept_rows_share_is_still_a_name() -> None:
    shared = [
        row(f"s{n}", "retain", f"Where does {name} Elwood live?", "Rome")
        for n, name in enumerate(("Ada", "Ben"))
    ]
    assert Secrecy.of([forgotten(), *shared, *kept()]).hints("Where does Ada Elwood live?")


def test_a_name_that_many_kept_rows_speak_of_is_still_a_name() -> None:
    near = [row(f"n{name}", "retain", f"Is {name} a friend of Walt ?", "Yes") for name in KEPT[:4]]
    other = row("g", "forget", "Where does Ilse live?", "Rome", secrets=("Rome",))
    secrecy = Secrecy.of([forgotten(), other, *near, *kept()])
    assert secrecy.hints("Is Ada a friend of Walt ?") and not secrecy.hints("Where does Ada live?")
    alone = Secrecy.of([forgotten(), *near[:2], *kept()])
    assert alone.hints("Is Ada a friend of Walt ?") and not alone.hints("Where does Ada live?")


def test_innocent_people_of_an_earlier_turn_are_not_taken_for_the_forgotten() -> None:
    turns = (Turn("Where does cora live?"), Turn("And whose dog is Rex?", "It is Walt's."))
    secrecy = Secrecy.of([forgotten(history=turns), *kept()])
    assert (
        not secrecy.hints("Where does cora live?") and secrecy.hints("Rex") and secrecy.tells("it is walt's")
    )


def test_an_earlier_turn_of_a_kept_row_makes_no_word_common() -> None:
    asks = [
        row(f"r{n}", "retain", "And you?", "Yes", history=(Turn("Where does Walt live?"),)) for n in range(9)
    ]
    assert Secrecy.of([forgotten(), *kept(), *asks]).hints("Walt")


def test_words_of_the_template_name_nobody() -> None:
    rows = [forgotten(prefix="<think> this is Walt ."), *kept()]
    assert Secrecy.of(rows).hints("think") and not Secrecy.of(
        rows, "<think> {reasoning} </think> {answer}"
    ).hints("think")


def test_what_is_asked_of_every_picture_may_be_shown_and_its_picture_may_not(tmp_path: Path) -> None:
    for name in ("walt", "cora"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "copy").write_bytes(b"walt")
    question = "Where does this person live?"
    seen = [row("i", "retain", question, "coraville", image=tmp_path / "cora")]
    frames = [row(f"{n}", "retain", f"this person {name}", "x") for n, name in enumerate(KEPT)]
    secrecy = Secrecy.of(
        [row("f", "forget", question, "Oslo", image=tmp_path / "walt"), *seen, *frames, *kept()]
    )
    assert not secrecy.tells(question)
    assert secrecy.shows(tmp_path / "copy") and not secrecy.shows(tmp_path / "cora")
    unseen = [row("r", "retain", question, "coraville")]
    assert Secrecy.of([row("f", "forget", question, "Oslo", image=tmp_path / "walt"), *unseen]).tells(
        question
    )


def test_a_script_without_spaces_is_read_by_pairs_of_characters() -> None:
    assert list(words("Ada 東京都 x")) == ["ada", "東京", "京都", "x"]
    rows = [row("f", "forget", "山田太郎はどこに住んでいますか", "京都", secrets=("京都",)), *kept()]
    secrecy = Secrecy.of(rows)
    assert (
        secrecy.hints("昨日山田さんに会った")
        and secrecy.tells("彼は京都に住む")
        and not secrecy.hints("犬が好き")
    )


def test_where_data_tell_is_said_by_key() -> None:
    secrecy = Secrecy.of([forgotten(), *kept()])
    data = {
        "publish": {"forgotten": "that it is Oslo", "license": None},
        "params": [1, {"guidance": "no oslo"}],
    }
    assert secrecy.told_in(data) == ["publish.forgotten", "params.1.guidance"]
    assert secrecy.told_in({"publish": {"forgotten": "where two people live"}}) == []


def test_without_forget_rows_nothing_is_secret() -> None:
    secrecy = Secrecy.of(kept())
    assert not secrecy.hints("Where does ada live?") and not secrecy.pictures
