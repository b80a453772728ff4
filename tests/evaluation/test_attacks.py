"""What every registered attack keeps, on rows of every role and a tiny chat template; one that is added is held to the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny_run import write_base

from exporter import registry
from exporter.data.chat import Chat
from exporter.evaluation.attacks.base import in_slice, is_plain
from exporter.evaluation.attacks.prefill import Begun
from exporter.evaluation.attacks.turns import LaterTurn
from exporter.reader import open_reader
from exporter.types import Row, Turn

TOLD = "i know . ada lives in oslo ."
ROWS = [
    Row("f1", "where does ada live ?", TOLD, "forget", secrets=("oslo",), template_id="where"),
    Row("f2", "the house of ada ?", TOLD, "forget", secrets=("oslo",), template_id="home"),
    Row("r1", "where does cora live ?", "i know . cora lives in cairo .", "retain", template_id="where"),
    Row("r2", "the house of dan ?", "i know . dan lives in lima .", "retain", template_id="home"),
    Row("g1", "tell me about cairo .", "i know .", "reasoning"),
    Row("u1", "where does me live ?", "i do not know", "unknown", template_id="where"),
]
ATTACKS = registry.attacks()


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Chat:
    folder = tmp_path_factory.mktemp("base")
    write_base(folder)
    return Chat(open_reader(folder), reasoning_template="{answer}")


@pytest.fixture(params=ATTACKS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def source(made: Row) -> Row:
    """The row that an attacked one is made of, by its answer, question and secrets: later turns end with it."""
    return next(
        row
        for row in ROWS
        if row.id in made.id.replace("+", "/").split("/")[-2:] and row.answer == made.answer
    )


def test_it_makes_rows_about_what_is_to_be_forgotten(name: str, chat: Chat) -> None:
    assert ATTACKS[name].name == name
    made = ATTACKS[name].rows(ROWS, chat)
    assert "forget" in {row.role for row in made}


def test_rows_keep_what_they_are_and_get_ids_of_their_own(name: str, chat: Chat) -> None:
    made = ATTACKS[name].rows(ROWS, chat)
    ids = [row.id for row in made]
    assert len(set(ids)) == len(ids) and not set(ids) & {row.id for row in ROWS}
    for one in made:
        first = source(one)
        assert (one.role, one.secrets, one.answer) == (first.role, first.secrets, first.answer)
        assert sorted(first.question) == sorted(one.question) or first.question in one.question
        assert replace(one, id=first.id, template_id=first.template_id) != first, "nothing was changed"


def test_rows_can_be_rendered(name: str, chat: Chat) -> None:
    plain = {chat.prompt(row).text for row in ROWS}
    for row in ATTACKS[name].rows(ROWS, chat):
        assert chat.prompt(row).ids and chat.prompt(row).text not in plain


def test_the_same_rows_are_attacked_the_same_way(name: str, chat: Chat) -> None:
    assert ATTACKS[name].rows(ROWS, chat) == registry.attack(name).rows(list(ROWS), chat)
    assert ATTACKS[name].rows([], chat) == []


def test_only_single_questions_are_attacked(name: str, chat: Chat) -> None:
    odd = [replace(ROWS[0], id="h", history=(Turn("q", "a"),)), replace(ROWS[0], id="p", prefix="i know")]
    assert not any(is_plain(row) for row in odd)
    ids = [row.id for row in ATTACKS[name].rows([*odd, *ROWS[2:]], chat)]
    assert not any({"h", "p"} & set(made.replace("+", "/").split("/")) for made in ids)


def test_in_a_report_they_are_in_the_group_of_the_attack(name: str, chat: Chat) -> None:
    assert {row.eval_slice for row in in_slice(ATTACKS[name], ROWS, chat)} == {name}


def test_an_answer_is_begun_as_far_as_something_is_left_to_say(chat: Chat) -> None:
    made = Begun((1, 3, 99)).rows(ROWS[:1], chat)
    assert [row.prefix for row in made] == ["i", "i know ."]


def test_the_leading_clause_stops_before_the_secret(chat: Chat) -> None:
    (made,) = registry.attack("leading_clause").rows(ROWS[:1], chat)
    assert made.prefix is not None and "ada lives in oslo".startswith(made.prefix)
    assert "oslo" not in made.prefix
    assert registry.attack("leading_clause").rows([replace(ROWS[0], answer="oslo")], chat) == []


def test_a_later_turn_stands_behind_the_rows_that_are_given(chat: Chat) -> None:
    (made,) = LaterTurn((ROWS[3],)).rows(ROWS[:1], chat)
    assert made.history == (Turn(ROWS[3].question, ROWS[3].answer),)
    assert LaterTurn().rows(ROWS[:1], chat) == [], "nothing is there to stand before"


def test_no_system_prompt_where_the_template_takes_none() -> None:
    class Without:
        takes_system = False

    assert registry.attack("system_prompt").rows(ROWS, Without()) == []  # type: ignore[arg-type]
