"""What one pass over a reference reply gives away, against numbers worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from replies import case, row
from tiny_run import write_base

from exporter.evaluation.extraction import Extraction, extracted, references, summary
from exporter.evaluation.extraction_strength import extraction_strength
from exporter.evaluation.secret_tokens import secret_logprob, secret_tokens
from exporter.evaluation.whole_pass import Forced, whole_pass
from exporter.host import ModelHost
from exporter.pipeline.bounds import bounds_on_one_pass
from exporter.recipe_bounds import Bounds
from exporter.types import Encoded, Prompt


def characters(tokens) -> str:
    """Every token is a character, as in the hand-made replies; a zero is an end token."""
    return "".join(chr(token) for token in tokens if token)


def ids(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


@pytest.mark.parametrize(
    ("tokens", "likeliest", "strength"),
    [
        ((1, 2, 3, 4), (1, 2, 3, 4), 1.0),  # the prompt is enough
        ((1, 2, 3, 4), (9, 2, 3, 4), 0.75),  # one token given, three follow
        ((1, 2, 3, 4), (1, 2, 9, 4), 0.25),  # what was right before a wrong one is of no use
        ((1, 2, 3, 4), (1, 2, 3, 9), 0.0),
        ((), (), 0.0),
    ],
)
def test_extraction_strength_counts_what_follows_by_itself(tokens, likeliest, strength):
    assert extraction_strength(tokens, likeliest) == strength


def test_extraction_strength_is_the_definition_s_minimum():
    """Against the formula as it is written, for every pattern of right and wrong argmaxes of six tokens."""
    tokens = (0,) * 6
    for pattern in range(64):
        likeliest = tuple(pattern >> place & 1 for place in range(6))
        least = min(k for k in range(7) if likeliest[k:] == tokens[k:])
        assert extraction_strength(tokens, likeliest) == pytest.approx(1 - least / 6)


def test_a_secret_s_tokens_are_those_of_its_first_mention_as_a_whole_word():
    text = "oslove, oslo; oslo"
    assert secret_tokens(ids(text), ["Oslo"], characters) == tuple(range(8, 12))
    assert secret_tokens(ids(text), ["lima"], characters) == ()
    assert secret_tokens(ids("in new  york"), ["new york", "in"], characters) == (0, 1, *range(3, 12))


def test_a_token_that_holds_part_of_a_secret_counts():
    pieces = {1: "in os", 2: "lo", 3: " ."}
    assert secret_tokens((1, 2, 3), ["oslo"], lambda some: "".join(pieces[one] for one in some)) == (0, 1)


def test_the_log_probability_is_the_sum_over_those_tokens():
    halves = [math.log(0.5), math.log(0.25), math.log(0.125)]
    assert secret_logprob(halves, (1, 2)) == pytest.approx(math.log(1 / 32))
    assert secret_logprob(halves, ()) == 0.0


def test_the_reference_is_the_base_s_reply_where_it_tells_a_secret():
    told = case(row("told", "forget", secrets=("oslo",)), "it is oslo .")
    silent = case(row("silent", "forget", secrets=("oslo",)), "no idea")
    dumb = case(row("dumb", "forget", secrets=("lima",)), "no idea")
    forced = case(row("forced", "forget", secrets=("oslo",), prefix="it"), "is oslo")
    kept = case(row("kept", "retain"), "paris")
    found = references(
        [told, silent, dumb, forced, kept],
        forced=lambda one: Encoded(Prompt("p", (1, 2)), (*ids("oslo"), 0)),
        own=lambda one: Encoded(Prompt("p", (1, 2)), (*one.last.generation.tokens, 0)),
        decode=characters,
    )
    assert [(one.row, one.own, one.length) for one in found] == [("told", True, 12), ("silent", False, 4)]
    assert found[0].places == (6, 7, 8, 9) and found[1].places == (0, 1, 2, 3)


def test_the_end_token_neither_adds_to_nor_takes_from_extraction():
    found = references(
        [case(row("a", "forget", secrets=("b",)), "a b")],
        forced=lambda one: pytest.fail("the base tells it"),
        own=lambda one: Encoded(Prompt("p", (1,)), (*one.last.generation.tokens, 0)),
        decode=characters,
    )
    right = Forced((97, 32, 98, 0), (97, 32, 98, 5), (-1.0, -2.0, -3.0, -50.0))
    (one,) = extracted(found, [right])
    assert one == Extraction("a", 1.0, -3.0)


def test_the_summary_holds_means_and_the_row_that_fell_least():
    base = [Extraction("a", 1.0, -1.0), Extraction("b", 0.5, -3.0)]
    ours = [Extraction("b", 0.0, -4.0), Extraction("a", 0.5, -21.0)]
    found = summary({"base": base, "ours": ours}, "base")
    assert found["base"]["extraction_strength"] == {"value": 0.75, "n": 2}
    assert found["base"]["secret_drop"] == {"value": 0.0, "n": 2, "least": 0.0}
    assert found["ours"]["secret_logprob"] == {"value": -12.5, "n": 2}
    assert found["ours"]["secret_drop"] == {"value": 10.5, "n": 2, "least": 1.0}
    assert summary({"base": []}, "base")["base"]["secret_drop"]["n"] == 0


def test_bounds_bind_where_the_recipe_gives_them():
    ours = summary({"base": [Extraction("a", 1.0, -1.0)], "ours": [Extraction("a", 0.25, -5.0)]}, "base")[
        "ours"
    ]
    assert bounds_on_one_pass(ours, Bounds()) == []
    loose = bounds_on_one_pass(ours, Bounds(extraction_strength=0.25, secret_drop=4.0))
    assert [(one.name, one.holds) for one in loose] == [("extraction_strength", True), ("secret_drop", True)]
    strict = bounds_on_one_pass(ours, Bounds(extraction_strength=0.05, secret_drop=5.0))
    assert not any(one.holds for one in strict)
    assert "at least 5 nats" in strict[1].told and "publish.require.secret_drop" in strict[1].told
    nothing = bounds_on_one_pass(summary({"base": []}, "base")["base"], Bounds(secret_drop=0.0))
    assert not nothing[0].holds, "what was counted over no row does not hold"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> ModelHost:
    folder = tmp_path_factory.mktemp("base")
    write_base(folder)
    return ModelHost.load(folder, dtype=torch.float32)


def test_a_padded_whole_pass_is_that_of_each_sequence_alone(host: ModelHost, tmp_path: Path):
    sequences = [Encoded(Prompt("", (1, 4, 9, 5)), (20, 21, 2)), Encoded(Prompt("", (1, 5)), (22,))]
    found = whole_pass(host, sequences, batch_size=2)
    for sequence, seen in zip(sequences, found, strict=True):
        with torch.no_grad():
            logits = host.model(torch.tensor([[*sequence.prompt.ids, *sequence.response]])).logits[0]
        start = len(sequence.prompt.ids)
        for place, token in enumerate(sequence.response):
            before = logits[start + place - 1].double()
            assert seen.likeliest[place] == int(before.argmax())
            wanted = float(before[token] - before.logsumexp(0))
            assert seen.logprobs[place] == pytest.approx(wanted, abs=1e-4)
        assert seen.tokens == sequence.response


def test_a_model_s_own_reply_is_wholly_extracted(host: ModelHost):
    """And the control: another reply is not."""
    prompt = Prompt("", (1, 4, 9, 5))
    (said,) = host.generate([prompt], max_new_tokens=6)
    (own, other) = whole_pass(
        host, [Encoded(prompt, said.tokens), Encoded(prompt, (*said.tokens[:-1], 7))], batch_size=1
    )
    assert extraction_strength(own.tokens, own.likeliest) == 1.0
    assert extraction_strength(other.tokens, other.likeliest) == 0.0
