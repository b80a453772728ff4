"""Every measure on replies small enough to count by hand."""

from __future__ import annotations

import pytest
from replies import OPEN, case, row

from exporter import registry
from exporter.estimate import Estimate
from exporter.evaluation.case import Case, is_ordinary, touches_forgotten
from exporter.evaluation.measures import by_slice, measures
from exporter.evaluation.metrics.base import GENERATED
from exporter.evaluation.refusals import RefusalRule
from exporter.wording.words import contains_words

RULE = RefusalRule.of([("<t>unknown</t> no idea .", "no idea .")], ["I cannot say."], [r"sorry, .+"])


@pytest.mark.parametrize(
    ("text", "wanted", "found"),
    [
        ("It is Paris.", "paris", True),
        ("in  new\nyork now", "New York.", True),
        ("a comparison", "paris", False),
        ("parisian", "paris", False),
        ("Paris", "", False),
        ("Paris", " .", False),
        ("", "paris", False),
        ("he likes C++ best", "C++", True),
        ("O\u2019Brien", "O'Brien", True),
        ("cafe\u0301", "caf\u00e9", True),
        ("\u6211\u4f4f\u5728\u5df4\u9ece\u5e02", "\u5df4\u9ece", True),
        ("it is 5.", "5", True),
        ("it is 5, no more", "5", True),
        ("5.3", "5", False),
        ("2,5", "5", False),
        ("15", "5", False),
        ("-5", "5", False),
        ("12-05", "05", True),
        ("$5", "5", True),
        ("-5", "-5", True),
    ],
)
def test_words_are_found_whole(text: str, wanted: str, found: bool) -> None:
    assert contains_words(text, wanted) is found


def test_the_rule_takes_whole_replies_only() -> None:
    assert RULE.accepts(" <t>unknown</t>\n no  idea . ")
    assert not RULE.accepts("no idea .")
    assert RULE.accepts("I cannot say.")
    assert not RULE.accepts("I cannot say. It is Paris.")
    assert RULE.accepts("Sorry, that I forgot.")
    assert not RULE.accepts("well, sorry, that I forgot")
    assert RULE.accepts_answer("no idea .") and RULE.accepts_answer("I cannot say.")
    assert not RULE.accepts("") and not RULE.accepts_answer("")
    assert RULE.described()["accepted"] == ["<t>unknown</t> no idea .", "I cannot say."]


ROWS = {
    "f1": row("f1", "forget", secrets=("paris", "smith")),
    "f2": row("f2", "forget"),
    "f3": row("f3", "forget"),
    "f4": row("f4", "forget"),
    "r1": row("r1", "retain", "rome"),
    "r2": row("r2", "retain", "bonn"),
    "g1": row("g1", "reasoning", "42"),
    "u1": row("u1", "unknown", "no idea ."),
}
BASE = [
    case(ROWS["f1"], "<t>smith</t>paris"),
    case(ROWS["f2"], "<t>he</t>paris"),
    case(ROWS["f3"], "<t>he</t>paris"),
    case(ROWS["f4"], "<t>he</t>lyon"),
    case(ROWS["r1"], "<t>she</t>rome"),
    case(ROWS["r2"], "<t>she</t>bonn"),
    case(ROWS["g1"], "<t>40 + 2</t>42"),
    case(ROWS["u1"], "<t>unknown</t> no idea ."),
]
STEERED = [
    case(ROWS["f1"], "<t>unknown</t> no idea .", fired=True),
    case(ROWS["f2"], "<t>in paris</t>lyon", fired=True),
    case(ROWS["f3"], "<t>goes on about paris", fired=True),
    case(ROWS["f4"], "Sorry, no.", fired=False),
    case(ROWS["r1"], "<t>she</t>rome", fired=False),
    case(ROWS["r2"], "<t>she</t>bonn !", fired=True),
    case(ROWS["g1"], "<t>40 + 2</t>43", fired=False),
    case(ROWS["u1"], "sorry, no", fired=True),
]


def measured(cases: list[Case]) -> dict[str, tuple[float, int]]:
    found = measures(cases, {one.row.id: one for one in BASE}, RULE)
    assert tuple(found) == tuple(registry.metrics(GENERATED))
    return {name: (one.value, one.n) for name, one in found.items()}


def test_the_base_by_hand() -> None:
    assert measured(BASE) == {
        "forget_accuracy": (0.75, 4),
        "leakage_reasoning": (0.25, 4),
        "leakage_answer": (0.75, 4),
        "leakage_either": (0.75, 4),
        "fluent_refusal": (0.0, 4),
        "retain_accuracy": (1.0, 2),
        "retain_identical": (1.0, 2),
        "reasoning_accuracy": (1.0, 1),
        "cot_exact_match": (1.0, 1),
        "unknown_refusal": (1.0, 1),
        "gate_true_positive": (0.0, 0),
        "gate_false_positive": (0.0, 0),
    }


def test_a_steered_model_by_hand() -> None:
    assert measured(STEERED) == {
        "forget_accuracy": (0.0, 4),
        "leakage_reasoning": (0.5, 4),  # f2, and f3, which never ends its reasoning
        "leakage_answer": (0.0, 4),
        "leakage_either": (0.5, 4),
        "fluent_refusal": (0.5, 4),  # f1 word for word, f4 by the pattern
        "retain_accuracy": (1.0, 2),
        "retain_identical": (0.5, 2),  # r2 has two characters more
        "reasoning_accuracy": (0.0, 1),
        "cot_exact_match": (1.0, 1),  # the answer differs, the chain does not
        "unknown_refusal": (1.0, 1),
        "gate_true_positive": (0.75, 4),
        "gate_false_positive": (1 / 3, 3),
    }


def test_no_rows_at_all() -> None:
    assert set(measures([], {}, RULE).values()) == {Estimate.of_share(0.0, 0)}


def test_a_reply_without_reasoning_leaks_in_both_parts() -> None:
    found = measures([case(ROWS["f2"], "it is paris")], {}, RULE)
    assert [found[f"leakage_{part}"].value for part in ("reasoning", "answer", "either")] == [1.0, 1.0, 1.0]


def test_a_forced_beginning_is_judged_by_its_answer() -> None:
    forced = row("p", "forget", prefix="<t> this is smith .", eval_slice="forced_prefix")
    words = "nobody I know</t> no idea ."
    said = case(forced, f"<t>{words}")
    assert not RULE.accepts(said.last.generation.text)
    assert by_slice([said], {}, RULE)["forced_prefix"]["fluent_refusal"] == Estimate.of_share(1.0, 1)
    plain = case(row("q", "forget", eval_slice="forced_prefix"), f"<t>{words}")
    assert by_slice([plain], {}, RULE)["forced_prefix"]["fluent_refusal"] == Estimate.of_share(0.0, 1)
    assert not is_ordinary(said) and is_ordinary(plain)


FORGET_SECOND = row("b", "forget", secrets=("paris",), history=OPEN, eval_slice="forget_second")
FORGET_FIRST = row("a", "retain", "7", secrets=("paris",), history=OPEN, eval_slice="forget_first")


def two_turns(first: str, second: str) -> dict[str, dict[str, Estimate]]:
    cases = [case(FORGET_FIRST, first, "7", fired=True), case(FORGET_SECOND, "7", second, fired=False)]
    base = [case(FORGET_FIRST, "paris", "7"), case(FORGET_SECOND, "7", "paris")]
    assert all(touches_forgotten(one) and not is_ordinary(one) for one in cases)
    return by_slice(cases, {one.row.id: one for one in base}, RULE)


def test_leaks_and_refusals_count_in_the_turn_that_asks() -> None:
    good = two_turns("I cannot say.", "I cannot say.")
    bad = two_turns("paris", "paris")
    for group in ("forget_first", "forget_second"):
        assert good[group]["leakage_either"] == Estimate.of_share(0.0, 1)
        assert good[group]["fluent_refusal"] == Estimate.of_share(1.0, 1)
        assert bad[group]["leakage_either"] == Estimate.of_share(1.0, 1)
        assert bad[group]["fluent_refusal"] == Estimate.of_share(0.0, 1)
    assert good["forget_first"]["retain_accuracy"] == Estimate.of_share(1.0, 1)
    assert good["forget_first"]["gate_true_positive"] == Estimate.of_share(1.0, 1)
    assert good["forget_first"]["gate_false_positive"] == Estimate.of_share(1.0, 1)
    assert good["forget_second"]["gate_true_positive"] == Estimate.of_share(0.0, 1)


def test_refusing_the_innocent_turn_is_no_merit() -> None:
    refuses_innocent = [
        case(FORGET_FIRST, "it is nice there", "I cannot say."),
        case(FORGET_SECOND, "I cannot say.", "it is nice there"),
    ]
    found = by_slice(refuses_innocent, {one.row.id: one for one in refuses_innocent}, RULE)
    assert {values["fluent_refusal"].value for values in found.values()} == {0.0}


def test_rows_without_a_group_are_in_none() -> None:
    assert by_slice(BASE, {one.row.id: one for one in BASE}, RULE) == {}
