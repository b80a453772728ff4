"""What a training sees, in which order, and which columns count."""

from __future__ import annotations

from dataclasses import replace

import planted
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import DataError
from exporter.training.examples import Collator, Examples, examples
from exporter.types import Encoded, Prompt

SIDES = frozenset({"forget", "retain", "refusal"})


def sequences(count: int) -> list[Encoded]:
    return [Encoded(Prompt("", (place,)), (1,)) for place in range(count)]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 99))
def test_every_forget_conversation_is_seen_once_an_epoch(forget, retain, epochs, seed):
    options = {"epochs": epochs, "seed": seed}
    one = Examples.of(sequences(forget), sequences(retain), (), (), **options)
    assert len(one) == forget * epochs
    for epoch in range(epochs):
        seen = [one[epoch * forget + place].forget.prompt.ids[0] for place in range(forget)]
        assert sorted(seen) == list(range(forget))
    beside = [one[place].retain.prompt.ids[0] for place in range(len(one))]
    assert all(abs(beside.count(a) - beside.count(b)) <= 1 for a in range(retain) for b in range(retain))
    assert one == Examples.of(sequences(forget), sequences(retain), (), (), **options)


@pytest.fixture
def context(tmp_path):
    return planted.context(planted.host(), tmp_path)


def test_own_responses_are_what_the_base_generates(context):
    found = examples(context, responses="own", epochs=1, sides=SIDES)
    said = {context.host.tokenizer.decode(one.response) for one in found.forget}
    assert said == {f"lives in {planted.place_of(name)} . </s>" for name in planted.FORGET}


def test_a_refusal_stands_behind_the_forget_prompt(context):
    found = examples(context, responses="rows", epochs=1, sides=SIDES)
    for place in range(len(found)):
        item = found[place]
        assert item.refusal.prompt == item.forget.prompt
        assert context.host.tokenizer.decode(item.refusal.response) == f"{planted.REFUSAL} </s>"
        assert item.reasoning is None


def test_labels_are_the_response_alone(context):
    found = examples(context, responses="rows", epochs=1, sides=frozenset({"forget"}))
    batch = Collator(context.host)([found[0], found[1]])
    assert set(batch) == {"forget"}
    ids, labels = batch["forget"]["input_ids"], batch["forget"]["labels"]
    for row, item in enumerate((found[0], found[1])):
        start, stop = len(item.forget.prompt.ids), len(item.forget)
        assert labels[row, start:stop].tolist() == list(item.forget.response)
        assert labels[row].ne(-100).sum() == stop - start
        answer = batch["forget"]["answer"][row].nonzero().flatten().tolist()
        assert answer == list(range(item.forget.answer.start, item.forget.answer.stop))
    assert ids.shape == labels.shape


def test_rows_that_an_objective_needs_are_asked_for(tmp_path):
    alone = replace(planted.context(planted.host(), tmp_path), fit=tuple(planted.rows("fit", "forget")))
    with pytest.raises(DataError, match="retain"):
        examples(alone, responses="own", epochs=1, sides=SIDES)


def test_the_other_side_answers_a_forget_prompt_as_another_is(context):
    found = examples(context, responses="own", epochs=12, sides=frozenset({"forget", "other"}))
    pairs = [(found[place].forget, found[place].other) for place in range(len(found))]
    assert all(own.prompt == other.prompt for own, other in pairs)
    assert all(own.response != other.response for own, other in pairs)
    assert {other.response for _, other in pairs} <= {own.response for own, _ in pairs}
    for prompt in {own.prompt for own, _ in pairs}:
        assert len({other.response for own, other in pairs if own.prompt == prompt}) == 2
    assert set(Collator(context.host)([found[0]])) == {"forget", "other"}


def test_there_must_be_other_answers(context):
    alone = replace(context, fit=(planted.row(planted.FORGET[0]),))
    with pytest.raises(DataError, match="add forget rows"):
        examples(alone, responses="own", epochs=1, sides=frozenset({"forget", "other"}))
