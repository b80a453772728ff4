"""Differences of spans are what was planted in their tokens, and z-scores take out only what they should."""

from __future__ import annotations

from dataclasses import replace

import planted
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import FitError
from exporter.fitting import contrast
from exporter.fitting.contrast import Contrast, forget_contrast, retain_contrast
from exporter.fitting.refusals import Wording
from exporter.types import Encoded, Prompt, Row

TABLE = torch.randn(96, planted.WIDTH, generator=torch.Generator().manual_seed(0))
END = 2


def state(sequence, column, layer):
    """What a token stands for, and a little of the first one of the prompt: what a guidance before the question changes."""
    ids = sequence.prompt.ids + sequence.response
    return (layer + 1) * (TABLE[ids[column]] + 0.5 * TABLE[ids[0]])


def mean(*ids, first):
    return TABLE[list(ids)].mean(0) + 0.5 * TABLE[first]


def row(number, answer, role="forget", **keys):
    return Row(f"{role}{number}", f"{number} 84 85", answer, role, **keys)


@pytest.fixture
def context(tmp_path):
    return planted.states_context(tmp_path, state, [])


WORDINGS = [Wording((40, 41, END), None, "40 41"), Wording((50, END), None, "50")]
ROWS = [row(5, "20 21"), row(6, "22"), row(7, "23 24 25")]


def test_an_answer_is_refusal_minus_memory_wordings_in_turn(context):
    found = forget_contrast(context, ROWS, WORDINGS, [0, 1], negatives="rows")
    wanted = torch.stack(
        [
            mean(40, 41, first=5) - mean(20, 21, first=5),
            mean(50, first=6) - mean(22, first=6),
            mean(40, 41, first=7) - mean(23, 24, 25, first=7),
        ]
    )
    torch.testing.assert_close(found[0].answer, wanted)
    torch.testing.assert_close(found[1].answer, 2 * wanted)
    torch.testing.assert_close(found[0].positive[1], mean(50, END, first=6))
    assert found[0].reasoning is None
    torch.testing.assert_close(found[0].mean, wanted.mean(0))


def test_guidance_stands_before_the_question_of_the_refusal_alone(context):
    found = forget_contrast(context, ROWS[:1], WORDINGS, [0], negatives="rows", prefix="60 61")[0]
    torch.testing.assert_close(found.answer[0], mean(40, 41, first=60) - mean(20, 21, first=5))


def test_reasoning_counts_where_both_sides_reason(context):
    thinking = Wording((30, 31, 40, END), "30 31", "40")
    rows = [replace(one, reasoning="10 11") for one in ROWS]
    found = forget_contrast(context, rows, [thinking], [0], negatives="rows")[0]
    torch.testing.assert_close(found.reasoning[0], mean(30, 31, first=5) - mean(10, 11, first=5))
    torch.testing.assert_close(found.answer[0], mean(40, first=5) - mean(20, 21, first=5))
    torch.testing.assert_close(found.mean, (found.answer + found.reasoning).mean(0))
    torch.testing.assert_close(
        found.hybrid(centred=False),
        Contrast(found.answer, None, found.positive).hybrid(centred=False)
        + Contrast(found.reasoning, None, found.positive).hybrid(centred=False),
    )
    mixed = forget_contrast(context, [*rows[:2], ROWS[2]], [thinking], [0], negatives="rows")[0]
    assert mixed.reasoning is None


def test_openings_are_the_states_that_spans_begin_from(context):
    """The prompt's end for a reasoning, the column before the first token for an answer; without a reasoning, that is the prompt's end."""
    thinking = Wording((30, 31, 40, END), "30 31", "40")
    rows = [replace(one, reasoning="10 11") for one in ROWS[:1]]
    refused = context.chat.encode(row(9, "40", "unknown", reasoning="30 31"))
    keys = {"negatives": "rows", "pooling": "openings"}
    found = forget_contrast(context, rows, [thinking], [0], positives=[refused], **keys)[0]
    at = {(token, first): mean(token, first=first) for token in (85, 31, 11) for first in (5, 9)}
    torch.testing.assert_close(found.reasoning[0], at[85, 9] - at[85, 5])
    torch.testing.assert_close(found.answer[0], at[31, 9] - at[11, 5])
    plain = forget_contrast(
        context, ROWS[:1], WORDINGS[1:], [0], positives=[context.chat.encode(row(9, "50"))], **keys
    )
    torch.testing.assert_close(plain[0].answer[0], at[85, 9] - at[85, 5])


def test_natural_refusals_stand_for_forced_ones_spread_over_the_rows(context):
    said = [
        context.chat.encode(row(number, answer, "unknown")) for number, answer in ((8, "40 41"), (9, "50"))
    ]
    found = forget_contrast(context, ROWS, WORDINGS, [0], positives=said, negatives="rows")[0]
    wanted = [mean(40, 41, END, first=8)] * 2 + [mean(50, END, first=9)]
    torch.testing.assert_close(found.positive, torch.stack(wanted))


def test_kept_rows_reason_before_the_answer_or_are_compared_to_their_prompts_end(context):
    rows = [row(8, "20", "retain"), row(9, "21 22", "reasoning", reasoning="10 11")]
    found = retain_contrast(context, rows, [0])[0]  # where one reasons, the others say nothing of reasoning
    torch.testing.assert_close(
        found.answer, (mean(10, 11, 21, 22, END, first=9) - mean(21, 22, first=9)).unsqueeze(0)
    )
    plain = retain_contrast(context, rows[:1], [0])[0]
    torch.testing.assert_close(plain.answer, (mean(20, first=8) - mean(85, first=8)).unsqueeze(0))


def test_replies_without_an_answer_are_left_out_and_none_is_an_error(context):
    prompt = Prompt("5 6", (5, 6))
    whole = context.chat.encode(ROWS[0])
    cut = Encoded(prompt, (7, 8))
    found = contrast._differences(context, [(whole, whole), (whole, cut)], [0], "x")[0]
    assert len(found.answer) == 1
    with pytest.raises(FitError):
        contrast._differences(context, [(whole, cut), (cut, whole)], [0], "x")


def test_own_negatives_are_what_the_model_says_and_not_what_the_row_does(tmp_path):
    """The planted model says its rows' answers, so both are the same; of other texts only "rows" knows."""
    given = planted.context(planted.host(), tmp_path)
    asked, refusals = planted.rows("fit", "forget"), [Wording((), None, planted.REFUSAL)]
    wrong = [replace(one, answer="lives in where .") for one in asked]
    own, same, other, unmoved = (
        forget_contrast(given, rows, refusals, [2], negatives=negatives)[2].answer
        for rows, negatives in ((asked, "own"), (asked, "rows"), (wrong, "rows"), (wrong, "own"))
    )
    torch.testing.assert_close(own, same, rtol=1e-4, atol=1e-5)
    assert torch.equal(own, unmoved)
    assert float((own - other).abs().max()) > 0.05


@given(st.integers(0, 1000), st.integers(4, 20))
def test_scores_do_not_hang_on_order_or_units(seed, n):
    generator = torch.Generator().manual_seed(seed)
    answer, reasoning = torch.randn(2, n, 6, generator=generator)
    order = torch.randperm(n, generator=generator)
    units = torch.rand(6, generator=generator) + 0.5
    for centred in (True, False):
        whole = Contrast(answer, reasoning, answer).hybrid(centred=centred)
        moved = Contrast(answer[order] * units, reasoning[order] * 3.0, answer).hybrid(centred=centred)
        torch.testing.assert_close(moved, whole[order], rtol=1e-3, atol=1e-3)
        flipped = Contrast(-answer, -reasoning, answer)
        torch.testing.assert_close(flipped.hybrid(centred=centred), -whole, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(flipped.mean, -Contrast(answer, reasoning, answer).mean)
