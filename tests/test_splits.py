"""Rows set aside for calibration, and what the parts must not share."""

import pytest

from exporter.errors import InputErrors
from exporter.splits import Splits, digest_of_rows, set_aside
from exporter.types import Row, Turn


def rows(count=40):
    return [
        Row(
            f"{role}{n}",
            f"{role} question {n}",
            "a",
            role,
            template_id=f"wording{n // 4}" if n % 2 == 0 else None,
        )
        for role in ("forget", "retain")
        for n in range(count)
    ]


def test_whole_wordings_of_each_role_are_set_aside():
    kept, aside = set_aside(rows(), 0.3, seed=1)
    assert len(kept) + len(aside) == 80
    for role in ("forget", "retain"):
        assert 0.2 <= sum(row.role == role for row in aside) / 40 <= 0.4
    keys = {(row.role, row.template_id) for row in aside if row.template_id}
    assert keys
    assert not keys & {(row.role, row.template_id) for row in kept}


def test_setting_aside_depends_on_the_seed_alone():
    assert set_aside(rows(), 0.3, 1) == set_aside(rows(), 0.3, 1)
    assert set_aside(rows(), 0.3, 1) != set_aside(rows(), 0.3, 2)
    shuffled = sorted(rows(), key=lambda row: row.id[::-1])
    assert {row.id for row in set_aside(shuffled, 0.3, 1)[1]} == {
        row.id for row in set_aside(rows(), 0.3, 1)[1]
    }


def test_a_role_with_one_wording_is_not_taken_apart():
    kept, aside = set_aside([Row("a", "q", "a", "forget")], 0.9, 0)
    assert (len(kept), len(aside)) == (1, 0)


def test_repeated_ids_and_seen_test_questions_are_refused():
    a, b = Row("a", "where ?", "x", "forget"), Row("b", "who ?", "x", "forget")
    Splits((a,), (), (b,)).check("rows")
    again = Row("c", "where ?", "other", "forget")
    with pytest.raises(InputErrors) as caught:
        Splits((a, a), (), (again,)).check("rows")
    assert len(caught.value.problems) == 2
    later = Row("d", "where ?", "x", "forget", history=(Turn("who ?"),))
    Splits((a,), (), (later,)).check("rows")  # another conversation


def test_digests_see_images_by_their_bytes(tmp_path):
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    first.write_bytes(b"same")
    second.write_bytes(b"same")
    one, two = (digest_of_rows([Row("a", "q", "a", "forget", image=path)]) for path in (first, second))
    assert one == two
    second.write_bytes(b"other")
    assert digest_of_rows([Row("a", "q", "a", "forget", image=second)]) != one


def test_paraphrases_that_the_fit_reads_are_seen_questions():
    fit = Row("a", "where ?", "x", "forget", paraphrases=("in what place ?",))
    with pytest.raises(InputErrors, match=r"row 'b' .* row 'a'"):
        Splits((fit,), (), (Row("b", "in what place ?", "x", "forget"),)).check("rows")
    forced = Row("c", "where ?", "x", "forget", prefix="it is")
    Splits((fit,), (), (forced,)).check("rows")  # another attack on a seen question


TYPED = [
    *["where is Paris ?", "Where is paris?", "WHERE IS PARIS?", "where  is\u00a0Paris ?", "where is Paris ?\n", "\twhere is Paris"],
    *["where is Paris", "where is Paris.", "where is Paris？", "where is Paris!", "where is Paris?!", "where is Paris…", "where is Par\u200bis?"],
    *["ｗｈｅｒｅ is Paris?", "Where is Paris !!"],
]  # fmt: skip
OTHER = [
    *[("what is 2+2?", "what is 2-2?"), ("what is 22?", "what is 2²?"), ("what is 2.5?", "what is 25?"), ("what is -5?", "what is 5?")],
    *[("what is C?", "what is C++?"), ("what is C?", "what is C#?"), ("what is 5?", "what is 5!"), ("what is n?", "what is n!")],
    *[("who is Ann?", "who is Anna?"), ("who is Müller?", "who is Muller?"), ("what is 😀?", "what is 😢?"), ("who is J. Doe?", "who is K. Doe?")],
    *[("?", "!"), ("a b?", "ab?"), ("x = y?", "x ≠ y?"), ("what is H₂O?", "what is HO?")],
]  # fmt: skip


def asked(question, role="forget", name="b", **more):
    return Row(name, question, "x", role, **more)


@pytest.mark.parametrize("question", TYPED)
def test_a_question_typed_otherwise_is_no_other_question(question):
    fit = asked(TYPED[0], name="a")
    assert len(Splits((fit,), (), (asked(question),)).problems()) == 1
    assert len(Splits((), (fit,), (asked(question),)).problems()) == 1
    assert len(Splits((fit, asked(question, "retain")), (), ()).problems()) == 1
    reworded = asked("in what place is it ?", "retain", paraphrases=(question,))
    assert len(Splits((fit, reworded), (), ()).problems()) == 1
    assert len(Splits((fit,), (reworded,), ()).problems()) == 1
    assert len(Splits((fit,), (), (reworded,)).problems()) == 1
    assert len(Splits((reworded,), (), (asked(TYPED[0]),)).problems()) == 1
    later = [asked("who ?", name=name, history=(Turn(one),)) for name, one in zip("ab", (TYPED[0], question), strict=True)]  # fmt: skip
    assert len(Splits((later[0],), (), (later[1],)).problems()) == 1


@pytest.mark.parametrize(("first", "second"), OTHER)
def test_what_differs_in_what_it_means_is_another_question(first, second):
    one, other = asked(first, name="a"), asked(second, "retain", name="b")
    assert Splits((one,), (), (other,)).problems() == []
    assert Splits((one, other), (), ()).problems() == []
    assert Splits((asked("who ?", name="a", paraphrases=(first,)), other), (), ()).problems() == []


def test_a_contradiction_is_told_once_for_two_rows():
    first = asked("where ?", name="a", paraphrases=("in what place ?",))
    second = asked("Where?", "retain", paraphrases=("In what place?",))
    assert len(Splits((first, second), (), ()).problems()) == 1
    same = asked("Where?", paraphrases=("In what place?",))
    assert Splits((first, same), (), ()).problems() == []  # one role
