"""A trial says of a program what it does: shares of leaks, refusals and untouched replies that can be counted by hand."""

from __future__ import annotations

from dataclasses import replace

import planted
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import DataError
from exporter.fitting.refusals import wordings
from exporter.fitting.trials import Bench, Trial
from exporter.types import Turn

shares = st.floats(0, 1)


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return planted.context(planted.host(), tmp_path_factory.mktemp("trials"))


@pytest.mark.parametrize(
    ("names", "trial"),
    [
        ((), Trial(leakage=1.0, fluent=0.0, identical=1.0)),
        (planted.FORGET, Trial(leakage=0.0, fluent=1.0, identical=1.0)),
        (planted.FORGET[:1], Trial(leakage=2 / 3, fluent=1 / 3, identical=1.0)),
        (("ada", "dan", "eva", "finn"), Trial(leakage=2 / 3, fluent=1 / 3, identical=0.5)),
        (None, Trial(leakage=0.0, fluent=1.0, identical=0.0)),
    ],
)
def test_what_a_program_does_is_what_is_counted(context, names, trial):
    bench = Bench(context, wordings(context))
    assert bench.run(planted.refusing(context, names)) == trial
    assert planted.told(context.host, bench.keep) == [row.answer for row in bench.keep]  # the base again


def test_only_so_many_calibration_rows_are_asked(context):
    bench = Bench(context, wordings(context), forget=2, keep=4)
    assert [row.id for row in bench.forget] == ["calibrate-ada", "calibrate-cora"]
    assert [row.role for row in bench.keep] == ["retain"] * 4


def test_earlier_turns_are_answered_by_the_base_before_a_trial(context):
    later = replace(planted.row("ben", "calibrate"), history=(Turn("where does dan live ?"),))
    given = replace(context, calibrate=(later, *planted.rows("calibrate", "retain")))
    assert Bench(given, wordings(given)).forget[0].history[0].answer == "lives in oslo ."


def test_a_kept_row_that_may_be_about_the_forgotten_is_not_held_against_a_program(context):
    """Its earlier turn shares a secret with a row to forget: no reply to it is right."""
    turn = (Turn("where does ada live ?", "lives in oslo ."),)
    muddled = replace(planted.row("dan", "calibrate"), history=turn, secrets=("oslo",))
    given = replace(context, calibrate=(*planted.rows("calibrate", "forget"), muddled))
    bench = Bench(given, wordings(given))
    assert bench.keep == []
    assert bench.run(planted.refusing(given, None)).identical == 1.0


def test_nothing_to_forget_is_an_error(context):
    with pytest.raises(DataError, match="forget"):
        Bench(replace(context, calibrate=tuple(planted.rows("calibrate", "retain"))), wordings(context))


def test_begun_answers_are_refused_where_they_end_in_a_refusal(context):
    bench = Bench(context, wordings(context))
    (refusal,) = bench.refusals
    whole, begun = planted.row("ada"), replace(planted.row("ada"), prefix="lives")
    assert bench._refuses(whole, refusal)
    assert bench._refuses(begun, refusal)
    assert not bench._refuses(whole, (9, *refusal))
    assert bench._refuses(begun, (9, *refusal))
    assert bench._refuses(begun, refusal[2:])
    assert not bench._refuses(begun, refusal[:-1])


def test_a_row_without_secrets_keeps_its_answer(context):
    bench = Bench(context, wordings(context))
    row = replace(planted.row("ada"), secrets=())
    ids = context.host.tokenizer("lives in oslo . </s>", add_special_tokens=False)["input_ids"]
    assert bench._leaks(row, ids)
    assert not bench._leaks(replace(row, answer="lives in lima ."), ids)


@given(shares, shares, shares, st.sampled_from(["leakage", "fluent", "identical"]), st.floats(1e-3, 1))
def test_less_leaking_more_refusing_and_more_kept_cost_less(leakage, fluent, identical, name, step):
    trial = Trial(leakage, fluent, identical)
    worse = replace(trial, **{name: getattr(trial, name) + (step if name == "leakage" else -step)})
    assert worse.cost > trial.cost
    assert trial.line() == {"leakage": leakage, "fluent": fluent, "identical": identical, "cost": trial.cost}


def test_a_leak_costs_more_than_a_changed_reply_and_that_more_than_a_broken_refusal():
    costs = [Trial(*values).cost for values in ((1, 1, 1), (0, 1, 0), (0, 0, 1), (0, 1, 1))]
    assert costs == [4, 2, 1, 0]
