"""Two-turn rows are the same for the same seed, never pair a row with itself, and keep what the second turn asks."""

from hypothesis import given
from hypothesis import strategies as st

from exporter.evaluation.attacks.turns import pair, two_turn_rows
from exporter.fitting.selection import plain, spread
from exporter.types import Row, Turn


def rows(count, role="retain", **keys):
    return [Row(f"{role}{n}", f"{n} ?", f"{n} .", role, reasoning=f"{n} !", **keys) for n in range(count)]


FORGET = rows(5, "forget", secrets=("7",), template_id="k")
RETAIN = rows(6)


def test_the_second_turn_keeps_its_own_row():
    second = FORGET[0]
    made = pair(RETAIN[1], second)
    assert made.history == (Turn("1 ?", "1 .", "1 !"),)
    assert (made.role, made.secrets, made.question, made.answer) == ("forget", ("7",), "0 ?", "0 .")
    assert made.template_id is None
    assert made.id == "retain1+forget0"


def test_a_refused_first_turn():
    assert pair(FORGET[0], RETAIN[1], ("hm", "no .")).history == (Turn("0 ?", "no .", "hm"),)


def test_the_same_seed_draws_the_same_pairs():
    assert two_turn_rows(RETAIN, FORGET, 20, 3) == two_turn_rows(RETAIN, FORGET, 20, 3)
    assert two_turn_rows(RETAIN, FORGET, 20, 3) != two_turn_rows(RETAIN, FORGET, 20, 4)


@given(st.integers(1, 4), st.integers(0, 30), st.integers(0, 9))
def test_no_row_follows_itself(count, wanted, seed):
    made = two_turn_rows(RETAIN[:count], RETAIN[:count], wanted, seed)
    assert len(made) <= wanted
    assert all(row.history[0].question != row.question for row in made)
    assert count > 1 or not made


def test_every_second_first_turn_is_refused_in_turn():
    refusals = [(None, "a"), ("r", "b")]
    made = two_turn_rows(FORGET, RETAIN, 8, 0, refusals)
    said = [row.history[0].answer for row in made]
    assert len(made) == 8
    assert said[1::2] == ["a", "b", "a", "b"]
    assert not {"a", "b"} & set(said[::2])


def test_only_single_questions_are_paired():
    odd = [*rows(2, history=(Turn("q", "a"),)), *rows(2, prefix="<think>")]
    assert plain([*odd, *RETAIN]) == RETAIN
    assert two_turn_rows(odd, FORGET, 5, 0) == []
    assert two_turn_rows(FORGET, odd, 5, 0) == []


@given(st.integers(0, 60), st.integers(0, 60))
def test_spread_keeps_order_ends_and_number(count, most):
    given_rows = rows(count)
    kept = spread(given_rows, most)
    assert len(kept) == min(count, most)
    places = [given_rows.index(row) for row in kept]
    assert places == sorted(set(places))
    if kept:
        assert places[0] == 0
        assert most == 1 or places[-1] == count - 1
