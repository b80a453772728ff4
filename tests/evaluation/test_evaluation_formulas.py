"""Metrics of an evaluation against values worked out by hand, each with the formula of its paper."""

from __future__ import annotations

import math
import time

import pytest
import torch
from replies import case, row
from tiny_run import write_base

from exporter import registry
from exporter.estimate import Estimate
from exporter.evaluation.divergence import divergences
from exporter.evaluation.metrics.base import Evaluated
from exporter.evaluation.metrics.choice import chosen
from exporter.evaluation.metrics.membership import auc, min_k
from exporter.evaluation.metrics.probability import near_one, true_better
from exporter.evaluation.refusals import RefusalRule
from exporter.evaluation.row_passes import ForcedAnswer, RowPasses
from exporter.host import ModelHost
from exporter.pipeline.evaluated_figures import _figure
from exporter.types import Encoded, Prompt, Row

RULE = RefusalRule.of()
WORDED = row("c", "forget", "B", options=("Oslo", "Lima", "An island"))


def seen(one: Row, text: str, base: str = "so", **known: object) -> Evaluated:
    return Evaluated(case(one, text, model="ours"), {one.id: case(one, base)}, RULE, **known)  # type: ignore[arg-type]


def measured(name: str, *rows: Evaluated) -> Estimate:
    return registry.metric(name).estimate(rows)


def answer(*logprobs: float, right: int | None = None) -> ForcedAnswer:
    """Tokens 0, 1, 2 ... of which the last ``right`` are the likeliest."""
    count = len(logprobs)
    likely = count if right is None else right
    return ForcedAnswer(
        tuple(range(count)),
        tuple(place if place >= count - likely else -1 for place in range(count)),
        logprobs,
    )


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(B) Lima", "B"),
        ("B: Lima", "B"),
        ("The answer is B.", "B"),
        ("the answer is **B**", "B"),
        ("b", "B"),
        ("(b) lima", "B"),
        ("b: lima", "B"),
        ("the answer is b .", "B"),
        ("option b", "B"),
        ("a city in peru", None),
        ("c or b", None),
        ("A", "A"),
        ("The answer is A.", "A"),
        ("A city like that is B", None),  # an A at the beginning is an answer: two letters are none
        ("it is Lima", "B"),
        ("it is lima, I think", "B"),
        ("Oslo or Lima", None),
        ("B or C", None),
        ("D", None),
        ("", None),
        ("I do not know", None),
        ("Bermuda", None),
        ("A is wrong. The answer is B.", "B"),
        ("A is wrong, B is correct.", "B"),
        ("A and C are incorrect. It is B", "B"),
        ("A isn't the right answer; B", "B"),
        ("The options are A) Oslo and B) Lima. The correct answer is B.", "B"),
        ("A) Oslo B) Lima C) An island\nAnswer: B", "B"),
        ("Oslo is far north. The correct option is (B) Lima.", "B"),
        ("The right answer to this question is B because C is no city", "B"),
        ("The answer is A because it is north.", "A"),
        ("Lima, not Oslo", "B"),
        ("It is not Oslo but Lima.", "B"),
        ("B rather than A", "B"),
        ("Not A or C, B", "B"),
        ("**Lima** instead of **Oslo**", "B"),
        ("It is not B.", None),
        ("Neither A nor B", None),
        ("The answer is not Lima", None),
        ("The answer is a mystery to me", None),
        ("The answer is A or B.", None),
        ("The options are A) Oslo and B) Lima.", None),
        ("The answer is A. No, the answer is B.", None),
        ("The wrong answer is A. It is B.", None),
    ],
)
def test_which_option_a_reply_chooses(text: str, letter: str | None) -> None:
    assert chosen(text, WORDED) == letter


def test_classification_counts_the_right_letter_alone() -> None:
    kept = row("k", "retain", "A", options=("oslo", "lima"))
    assert measured("forget_classification", seen(WORDED, "B"), seen(WORDED, "C")).value == 0.5
    assert measured("retain_classification", seen(kept, "A"), seen(kept, "lima")).value == 0.5
    assert measured("forget_classification", seen(row("x", "forget"), "B")).n == 0  # no options


def test_a_reply_that_leaves_its_choice_open_is_not_judged() -> None:
    """Neither forgotten nor kept: it is told as not judged. A refusal is judged, and so is a choice among wrong options."""
    kept = row("k", "retain", "B", options=WORDED.options)
    for name, one in (("forget_classification", WORDED), ("retain_classification", kept)):
        metric = registry.metric(name)
        replies = [
            seen(one, text)
            for text in ("B or C", "Oslo or Lima", "I do not know", "A or C", "Lima, not Oslo")
        ]
        assert metric.values(replies) == [False, False, True]
        assert metric.unjudged(replies) == 2
        found = _figure(metric, replies[:2], {}, "no judge")
        assert (found.value, found.not_judged, found.why_not) == (None, 2, "none of 2 rows could be judged")


@pytest.mark.parametrize("word", ["*", "A, ", "A ", "the ", "answer ", "Oslo, Lima or ", "A is "])
def test_a_reply_that_repeats_itself_is_read_in_no_time(word: str) -> None:
    begun = time.process_time()
    chosen(word * 2000, WORDED)
    assert time.process_time() - begun < 1.5


def test_a_cloze_is_filled_with_whole_words() -> None:
    blank = Row("b", "He lives in [Blank].", "Lima", "forget")
    assert measured("forget_cloze", seen(blank, "in Lima."), seen(blank, "in Limassol")).value == 0.5
    assert measured("forget_cloze", seen(row("x", "forget"), "Lima")).n == 0


def test_what_a_reply_leaks_in_a_reasoning_without_end_is_read() -> None:
    blank = Row("b", "He lives in ____.", "Lima", "forget")
    assert measured("forget_cloze", seen(blank, "<t>it is Lima, or")).value == 1.0


def test_rouge_l_is_the_longest_common_subsequence() -> None:
    """Answer of 5 words, reply of 4, in common "the cat mat" in order: recall 3/5, precision 3/4, F = 2 (3/5)(3/4) / (3/5 + 3/4) = 2/3."""
    pytest.importorskip("rouge_score")
    one = row("r", "forget", "the cat has a mat")
    said = seen(one, "the mat cat mat")
    assert measured("forget_rouge_l_recall", said).value == pytest.approx(3 / 5)
    assert measured("forget_rouge_l", said).value == pytest.approx(2 / 3)
    assert measured("forget_rouge_l", seen(one, "<t>thinking</t>the cat has a mat")).value == 1.0
    assert measured("forget_rouge_l", seen(WORDED, "B")).n == 0  # a letter is no sentence


def test_rouge_l_reads_scripts_that_the_library_drops() -> None:
    """The library's own tokeniser keeps a to z alone: every reply in another script would have been forgotten."""
    pytest.importorskip("rouge_score")
    for text in ("東京に住んでいます", "он живёт в Лиме"):
        assert measured("forget_rouge_l", seen(row("r", "forget", text), text)).value == 1.0
        assert measured("forget_rouge_l", seen(row("r", "forget", text), "no")).value == 0.0


def test_probability_is_the_geometric_mean_over_tokens() -> None:
    """exp((log 0.5 + log 0.125) / 2) = 0.25."""
    passes = RowPasses(answer(math.log(0.5), math.log(0.125)), (), (), ())
    assert measured("forget_probability", seen(row("f", "forget"), "", passes=passes)).value == pytest.approx(
        0.25
    )
    assert measured("retain_probability", seen(row("r", "retain"), "", passes=passes)).value == pytest.approx(
        0.25
    )
    assert measured("forget_probability", seen(row("f", "forget"), "")).n == 0  # nothing was forced


def test_memorised_tokens_and_extraction_strength_differ_by_order() -> None:
    """Of four tokens the last two are the likeliest: half memorised, and two must be given. Of the first two, none follows by itself."""
    last = RowPasses(answer(-1.0, -1.0, -1.0, -1.0, right=2), (), (), ())
    first = RowPasses(ForcedAnswer((0, 1, 2, 3), (0, 1, -1, -1), (-1.0,) * 4), (), (), ())
    found = [
        [measured(name, seen(row("f", "forget"), "", passes=one)).value for one in (last, first)]
        for name in ("exact_memorisation", "answer_extraction_strength")
    ]
    assert found == [[0.5, 0.5], [0.5, 0.0]]


def test_truth_ratio_is_wrong_over_right() -> None:
    """Wrong answers of 0.2 and 0.05, in the geometric mean 0.1, over a reworded right one of 0.4: R = 0.25, so min(R, 1/R) = 0.25 and 1 - R = 0.75."""
    passes = RowPasses(
        answer(math.log(0.9)), (answer(math.log(0.4)),), (answer(math.log(0.2)), answer(math.log(0.05))), ()
    )
    assert passes.truth_ratio == pytest.approx(0.25)
    assert measured("forget_truth_ratio", seen(row("f", "forget"), "", passes=passes)).value == pytest.approx(
        0.25
    )
    assert measured("retain_truth_ratio", seen(row("r", "retain"), "", passes=passes)).value == pytest.approx(
        0.75
    )
    plain = RowPasses(answer(math.log(0.4)), (), (answer(math.log(0.1)),), ())
    assert plain.truth_ratio == pytest.approx(0.25)  # without a reworded answer, the answer itself
    assert RowPasses(answer(-1.0), (answer(-1.0),), (), ()).truth_ratio is None
    assert (near_one(4.0), true_better(4.0), true_better(0.0)) == (pytest.approx(0.25), 0.0, 1.0)


def test_model_utility_is_the_harmonic_mean_of_three_means_a_set() -> None:
    """One set: probability 0.5, ROUGE-L recall 1, truth ratio part 1 - 0.2 / 0.4 = 0.5: 3 / (2 + 1 + 2) = 0.6. One part of 0 makes all of it 0."""
    pytest.importorskip("rouge_score")
    passes = RowPasses(answer(math.log(0.5)), (answer(math.log(0.4)),), (answer(math.log(0.2)),), ())
    one = row("r", "retain", "in rome")
    assert measured("model_utility", seen(one, "in rome", passes=passes)).value == pytest.approx(
        0.6, abs=1e-6
    )
    assert measured("model_utility", seen(one, "nothing", passes=passes)).value == 0.0
    assert measured("model_utility", seen(row("f", "forget", "in rome"), "in rome", passes=passes)).n == 0
    two = row("s", "retain", "in rome", eval_slice="world")
    sure = RowPasses(answer(0.0), (), (answer(-50.0),), ())
    value = measured(
        "model_utility", seen(one, "in rome", passes=passes), seen(two, "in rome", passes=sure)
    ).value
    assert value == pytest.approx(6 / (2 + 1 + 2 + 1 + 1 + 1), abs=1e-6)


def test_forget_quality_is_the_p_value_of_the_ks_test() -> None:
    """Two samples of 4 that do not overlap: of the 8 over 4 = 70 ways to choose them, 2 lie as far apart, so p = 2 / 70."""
    pytest.importorskip("scipy")

    def ratio(value: float) -> RowPasses:
        return RowPasses(answer(0.0), (), (answer(math.log(value)),), ())

    rows = [
        seen(row(f"f{i}", "forget"), "", passes=ratio(0.1 + i / 100), retained=ratio(0.6 + i / 100))
        for i in range(4)
    ]
    apart = measured("forget_quality", *rows)
    assert apart.value == pytest.approx(2 / 70) and apart.n == 4
    assert measured("forget_quality", *rows[:3]).n == 0  # of three rows no p-value is below 0.1
    same = [seen(one.case.row, "", passes=one.passes, retained=one.passes) for one in rows]
    assert measured("forget_quality", *same).value == pytest.approx(1.0)
    assert measured("forget_quality", *(seen(one.case.row, "", passes=one.passes) for one in rows)).n == 0


def test_min_k_and_its_auc() -> None:
    """The lowest 40% of five tokens are two, of mean -3.5. Of members 1 and 3 and others 2 and 3, 2 of 4 pairs are right and one is a tie."""
    assert min_k((-1.0, -4.0, -0.5, -3.0, -0.1)) == 3.5
    assert min_k((-2.0,)) == 2.0
    assert auc((1.0, 3.0), (2.0, 3.0)) == (1 + 1 + 0 + 0.5) / 4
    assert auc((1.0,), (1.0,)) == 0.5


def test_priv_leak_is_relative_to_the_retain_model() -> None:
    """AUC 1 against 0.5: (1 - 0.5) / 0.5 = 100%; against a retain model of AUC 1: 0%."""

    def raw(value: float) -> RowPasses:
        return RowPasses(answer(-1.0), (), (), (value,))

    held = row("h", "unknown", eval_slice="holdout")
    one, two = seen(row("f", "forget"), "", passes=raw(-1.0)), seen(held, "", passes=raw(-2.0))
    assert measured("min_k_auc", one, two).value == 1.0
    assert measured("priv_leak", one, two).value == pytest.approx(100.0)
    both = [seen(row_.case.row, "", passes=row_.passes, retained=row_.passes) for row_ in (one, two)]
    assert measured("priv_leak", *both).value == pytest.approx(0.0)
    assert measured("priv_leak", one).n == measured("min_k_auc", one).n == 0  # nothing to compare with


def test_ril_is_half_explicit_and_half_implicit() -> None:
    """Four rows: both kinds, explicit alone, implicit alone, none: 0.5 * 2/4 + 0.5 * 2/4."""
    one = row("f", "forget", secrets=("Japan",))
    texts = [("<t>Japan</t>x", 1.0), ("<t>Japan</t>x", 0.0), ("<t>Tokyo</t>x", 1.0), ("<t>hm</t>x", 0.0)]
    rows = [seen(one, text, "<t>so</t>y", verdicts={"implicit": verdict}) for text, verdict in texts]
    assert measured("ril_explicit", *rows).value == 0.5
    assert measured("ril_implicit", *rows).value == 0.5
    assert measured("ril", *rows).value == pytest.approx(0.5)
    assert measured("ril", *rows[1:]).value == pytest.approx((0.5 + 0.5 + 0) / 3)


def test_what_was_not_judged_is_no_pass() -> None:
    one = row("f", "forget", secrets=("Japan",))
    rows = [
        seen(one, "<t>hm</t>x", "<t>so</t>y"),
        seen(one, "<t>Tokyo</t>x", "<t>so</t>y", verdicts={"implicit": 1.0}),
    ]
    for name in ("ril", "ril_implicit"):
        metric = registry.metric(name)
        assert (metric.estimate(rows).n, metric.unjudged(rows)) == (1, 1)
    assert registry.metric("ril").estimate(rows[:1]).n == 0


def test_a_reply_that_does_not_reason_any_more_is_searched_whole() -> None:
    """Where the base reasons: a model that drops its tags and tells the secret has not passed."""
    one = row("f", "forget", secrets=("Japan",))
    assert measured("ril_explicit", seen(one, "Japan", "<t>so</t>y")).value == 1.0
    assert measured("ril_explicit", seen(one, "Japan", "no reasoning at all")).n == 0


def test_rcr_is_a_share_of_kept_rows() -> None:
    kept, about = row("r", "reasoning"), row("f", "forget")
    same = ("<t>a</t>b", "<t>a</t>b")
    rows = [seen(kept, *same, verdicts={"supported": value}) for value in (1.0, 1.0, 0.0)]
    rows.append(seen(kept, "<t>a</t>b", "no reasoning", verdicts={"supported": 0.0}))  # the base has none
    found = measured("rcr", *rows, seen(about, *same, verdicts={"supported": 0.0}))
    assert (found.value, found.n) == (pytest.approx(2 / 3), 3)


def test_perplexity_is_the_exponential_of_the_mean() -> None:
    rows = [seen(row("f", "forget"), "x", surprise=math.log(value)) for value in (2.0, 8.0)]
    assert measured("forget_perplexity", *rows).value == pytest.approx(4.0)
    assert measured("retain_perplexity", *rows).n == 0


def test_divergence_is_zero_of_a_model_itself_and_the_formula_of_another(tmp_path) -> None:
    write_base(tmp_path / "one")
    write_base(tmp_path / "two", seed=3)
    one, two = (ModelHost.load(tmp_path / name) for name in ("one", "two"))
    sequences = [Encoded(Prompt("", (1, 4, 9)), (10, 11)), Encoded(Prompt("", (1, 4)), (12, 13, 14))]
    assert divergences(one, one, sequences) == [0.0, 0.0]
    found = divergences(one, two, sequences)
    ids = torch.tensor([[*sequences[1].prompt.ids, *sequences[1].response]])
    with torch.no_grad():
        p, q = (host.model(input_ids=ids).logits[0, 1:4].double().softmax(-1) for host in (one, two))
    assert found[1] == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-4)


def test_equal_values_are_not_certain() -> None:
    """A mean of two equal values has Wilson's interval of a share, not one of no width."""
    one = Estimate.spread_mean([0.0, 0.0])
    assert (one.low, one.high) == (0.0, pytest.approx(0.6576, abs=1e-3))
    assert Estimate.spread_mean([3.0, 3.0], (1.0, 5.0)).low == pytest.approx(
        1 + 4 * Estimate.of_share(0.5, 2).low
    )
    assert Estimate.spread_mean([0.0, 0.0], (0.0, math.inf)).high == math.inf
    assert Estimate.spread_mean([0.0, 1.0]) == Estimate.mean([0.0, 1.0])


def test_a_bootstrap_holds_its_value_and_repeats() -> None:
    values = [0.0, 0.2, 0.4, 0.9, 1.0, 0.3]
    one = Estimate.bootstrap(values, lambda some: sum(some) / len(some))
    assert one == Estimate.bootstrap(values, lambda some: sum(some) / len(some))
    normal = Estimate.mean(values)
    assert one.low < one.value < one.high and one.value == pytest.approx(normal.value)
    assert one.low == pytest.approx(normal.low, abs=0.1) and one.high == pytest.approx(normal.high, abs=0.1)
    equal = Estimate.bootstrap([0.5, 0.5], lambda some: some[0])
    assert (equal.low, equal.high) == (0.0, 1.0)  # nothing is known of its spread
    assert Estimate.bootstrap([0.5], lambda some: some[0]) == Estimate(0.5, 1, 0.0, 1.0)
    assert Estimate.bootstrap([], lambda some: some[0]).n == 0
