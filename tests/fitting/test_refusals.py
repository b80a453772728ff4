"""Natural refusals are copied only from positions at which the model itself agrees."""

import numerals
import pytest
import tiny
import torch

from exporter.errors import DataError, FitError
from exporter.fitting.refusals import (
    forced,
    natural_refusals,
    natural_replies,
    natural_rows,
    said_states,
    wordings,
)
from exporter.types import Row

LAYERS = (1, 3)
QUESTIONS = ("5 6 7 8", "9 10 11", "12 13 14 15 16")


def row(number, question, answer, role="unknown", **keys):
    return Row(f"{role}{number}", question, answer, role, **keys)


@pytest.fixture(scope="module")
def host():
    return numerals.host()


@pytest.fixture(scope="module")
def own(host):
    """What the model itself says to one question: a wording it agrees with at every position."""
    said = host.generate([numerals.prompt(QUESTIONS[0])], max_new_tokens=4)[0].tokens
    host.model.generation_config.eos_token_id = None
    forced_end = [*said, numerals.END]
    return " ".join(map(str, forced_end[:-1]))


@pytest.fixture(autouse=True)
def end_follows(monkeypatch, own):
    """The wordings here have no end token, which a random model would hardly say."""
    encode = numerals.NumeralChat.encode

    def open_ended(self, *args, **keys):
        from dataclasses import replace

        found = encode(self, *args, **keys)
        return replace(found, response=found.response[:-1])

    monkeypatch.setattr(numerals.NumeralChat, "encode", open_ended)


def context(host, folder, answer, questions=QUESTIONS[:1], **keys):
    rows = [row(n, question, answer) for n, question in enumerate(questions)]
    return numerals.context(host, folder, rows, **keys)


def test_the_models_own_words_are_kept_whole(host, own, tmp_path):
    given = context(host, tmp_path, own)
    (found,) = natural_refusals(given, wordings(given), LAYERS)
    assert found.whole
    assert found.agreement == (1.0,) * 4
    sequence = forced(numerals.prompt(QUESTIONS[0]), found.wording.response).sequence
    inputs = host.batch([sequence], "right")
    for layer in LAYERS:
        states = tiny.block_states(host.model, inputs, layer)[0, sequence.prompt_end : -1]
        torch.testing.assert_close(found.states[layer], states, rtol=1e-3, atol=1e-4)
    assert given.records["refusals"][0]["refused"] == []


def test_a_position_the_model_does_not_agree_with_is_refused(host, own, tmp_path):
    words = own.split()
    words[2] = str((int(words[2]) + 1) % tiny.VOCAB)
    given = context(host, tmp_path, " ".join(words))
    with pytest.raises(FitError, match=r"unknown: '.*' .*positions 2 \(0\.00\)"):
        natural_refusals(given, wordings(given), LAYERS, source="unknown")
    assert given.records["refusals"][0]["refused"][0] == 2
    assert given.records["refusals"][0]["agreement"][:3] == [1.0, 1.0, 0.0]


def test_one_whole_wording_is_enough_and_the_others_bear_their_marks(host, own, tmp_path):
    words = own.split()
    words[-1] = str((int(words[-1]) + 1) % tiny.VOCAB)
    rows = [row(0, QUESTIONS[0], own), row(1, QUESTIONS[0], " ".join(words))]
    given = numerals.context(host, tmp_path, rows)
    whole, broken = natural_refusals(given, wordings(given), LAYERS)
    assert whole.whole
    assert broken.kept == (True, True, True, False)
    assert len(given.records["refusals"]) == 2


def test_natural_replies_are_what_was_agreed_with_and_said_states_only_that(host, own, tmp_path):
    """Of two wordings one is whole: its replies alone come back, and the other has states where it was agreed with."""
    words = own.split()
    words[2] = str((int(words[2]) + 1) % tiny.VOCAB)
    rows = [row(0, QUESTIONS[0], own), row(1, QUESTIONS[0], " ".join(words))]
    given = numerals.context(host, tmp_path, rows)
    found = natural_refusals(given, wordings(given), LAYERS)
    assert [one.whole for one in found] == [True, False]
    replies = natural_replies(given, found)
    assert {one.response for one in replies} == {found[0].wording.response}
    assert len(replies) == len(natural_rows(given, found[0].wording, "unknown", 64, 4))
    kept = sum(found[1].kept)
    assert 0 < kept < 4
    assert len(said_states(found, 1)) == 4 + kept


def test_agreement_is_a_share_of_the_prompts_and_only_those_are_averaged(host, own, tmp_path):
    given = context(host, tmp_path, own, QUESTIONS)
    (wording,) = wordings(given)
    (found,) = natural_refusals(given, [wording], LAYERS, least_agreement=0.3)
    items = [forced(numerals.prompt(question), wording.response) for question in QUESTIONS]
    for t, token in enumerate(wording.response):
        agreed = []
        for item in items:
            inputs = host.batch([item.sequence], "right")
            column = item.sequence.prompt_end + t
            with torch.no_grad():
                if int(host.model(**inputs).logits[0, column].argmax()) == token:
                    agreed.append(tiny.block_states(host.model, inputs, 3)[0, column])
        assert found.agreement[t] == pytest.approx(len(agreed) / len(items))
        torch.testing.assert_close(found.states[3][t], torch.stack(agreed).mean(0), rtol=1e-3, atol=1e-4)
    assert min(found.agreement) < 1
    with pytest.raises(FitError):
        natural_refusals(given, [wording], LAYERS, source="unknown", least_agreement=1.0)


def test_wordings_are_distinct_and_the_most_frequent_comes_first(host, tmp_path):
    rows = [row(n, "5", answer) for n, answer in enumerate(["7 8", "9", "9", "7 8", "9"])]
    found = wordings(numerals.context(host, tmp_path, [*rows, row(9, "5", "50", "forget")]))
    assert [(one.answer, one.response) for one in found] == [("9", (9,)), ("7 8", (7, 8))]


def test_rows_without_unknown_subjects_say_so(host, tmp_path):
    given = numerals.context(host, tmp_path, [row(0, "5", "6", "forget")])
    with pytest.raises(DataError, match="role unknown"):
        wordings(given)


@pytest.mark.parametrize("count", [5, 6, 9, 20])
def test_few_shot_rows_bear_as_many_refused_questions_as_asked(host, count, tmp_path):
    forget = [row(n, f"{20 + n}", f"{40 + n}", "forget") for n in range(count)]
    given = numerals.context(host, tmp_path, [*forget, row(0, "5", "7 8")])
    (wording,) = wordings(given)
    asked = natural_rows(given, wording, "few_shot", 8, 4)
    assert asked == natural_rows(given, wording, "few_shot", 8, 4)
    assert len(asked) == min(count, 8)
    for one in asked:
        before = [turn.question for turn in one.history]
        assert len(set(before)) == 4
        assert one.question not in before
        assert {turn.answer for turn in one.history} == {"7 8"}


def test_too_few_rows_for_few_shot(host, tmp_path):
    given = numerals.context(host, tmp_path, [row(0, "20", "40", "forget"), row(0, "5", "7")])
    with pytest.raises(DataError, match="5 plain forget rows"):
        natural_rows(given, wordings(given)[0], "few_shot", 8, 4)


def test_both_ways_are_tried_and_named(host, own, tmp_path):
    wrong = " ".join(str((int(word) + 1) % tiny.VOCAB) for word in own.split())
    forget = [row(n, f"{20 + n}", f"{40 + n}", "forget") for n in range(6)]
    given = numerals.context(host, tmp_path, [*forget, row(0, QUESTIONS[0], wrong)])
    with pytest.raises(FitError, match=r"(?s)unknown: .*few_shot: "):
        natural_refusals(given, wordings(given), LAYERS)
