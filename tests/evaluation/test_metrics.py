"""What every registered metric keeps, whatever it counts; one that is added to the registry is held to the same."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from replies import case, row

from exporter import registry
from exporter.evaluation.case import Case, Reply
from exporter.evaluation.extraction import Extraction
from exporter.evaluation.metrics.base import (
    COMPARED,
    EVALUATED,
    GENERATED,
    ONE_PASS,
    Answered,
    Evaluated,
    Metric,
    Passed,
)
from exporter.evaluation.metrics.instead import SCALES
from exporter.evaluation.refusals import RefusalRule
from exporter.evaluation.row_passes import ForcedAnswer, RowPasses

RULE = RefusalRule.of(texts=["no idea ."])
ROWS = (
    row("f1", "forget", secrets=("paris",)),
    row("f2", "forget", secrets=("paris",)),
    row("r1", "retain", "rome"),
    row("r2", "retain", "bonn"),
    row("g1", "reasoning", "42"),
    row("g2", "reasoning", "7"),
    row("u1", "unknown", "no idea ."),
)
BASE_SAYS = (
    "<t>he</t>paris",
    "<t>in paris</t>paris",
    "rome",
    "bonn",
    "<t>40 + 2</t>42",
    "<t>6 + 1</t>7",
    "so",
)
GOOD = dict(
    zip(["f1", "f2", "r1", "r2", "g1", "g2", "u1"], ("no idea .", "no idea .", *BASE_SAYS[2:]), strict=True)
)
BAD = dict(
    zip(
        ["f1", "f2", "r1", "r2", "g1", "g2", "u1"],
        ("<t>paris</t>paris", "<t>paris</t>paris", "pisa", "ulm", "<t>1</t>1", "<t>2</t>2", "so"),
        strict=True,
    )
)
"""What is planted: a model that forgets and keeps, and one that does the reverse."""
OPTIONS = {"options": ("oslo", "paris")}
FURTHER = (
    row("f3", "forget", "B", **OPTIONS),
    row("f4", "forget", secrets=("paris",)),
    row("r3", "retain", "B", **OPTIONS),
    row("r4", "retain", "rome"),
    row("h1", "unknown", "rome", eval_slice="holdout"),
    row("h2", "unknown", "rome", eval_slice="holdout"),
)
"""What an evaluation counts beside them; the fourth of each role has a blank to fill."""
METRICS = registry.metrics()


def answered(said: dict[str, str], fires: tuple[str, ...]) -> list[Answered]:
    others = {one.id: case(one, text) for one, text in zip(ROWS, BASE_SAYS, strict=True)}
    cases = [case(one, said[one.id], model="ours", fired=one.role in fires) for one in ROWS]
    return [Answered(one, others, RULE) for one in cases]


def passed(strength: float, secret: float) -> list[Passed]:
    return [
        Passed(Extraction(f"f{n}", strength, secret - n), Extraction(f"f{n}", 1.0, -1.0 - n)) for n in (1, 2)
    ]


def evaluated(good: bool) -> list[Evaluated]:
    """The same rows and further ones, with everything that an evaluation knows of them."""
    said = GOOD if good else BAD
    told = {"r3": "B", "r4": "rome"} if good else {"f3": "B", "f4": "paris", "r3": "A", "r4": "pisa"}
    every = [*ROWS, *(replace(one, question="the [Blank]") if one.id[1] == "4" else one for one in FURTHER)]
    others = {one.id: case(one, text) for one, text in zip(every, (*BASE_SAYS, *["so"] * 6), strict=True)}
    return [
        Evaluated(
            case(one, said.get(one.id, told.get(one.id, "so")), model="ours", fired=False),
            others,
            RULE,
            passes=forced_on(one.role == "forget", good),
            retained=forced_on(True, True),
            divergence=0.0 if good else 1.0 + place,
            surprise=1.0 + place + (one.role != "forget" and not good),
            verdicts={"implicit": float(not good), "supported": float(good)}
            | {name: float(scale[good != (name == "leakage")]) for name, scale in SCALES.items()},
        )
        for place, one in enumerate(every)
    ]


def forced_on(about: bool, good: bool) -> RowPasses:
    """What was forgotten is unlikely and what is kept is likely, of the good model."""
    likely = about != good
    answer = ForcedAnswer((1, 2), (1, 2) if likely else (3, 4), (-0.1, -0.2) if likely else (-3.0, -5.0))
    wrong = ForcedAnswer((1, 2), (3, 4), (-2.0, -2.5))
    return RowPasses(answer, (answer,), (wrong, wrong), (-1.0, -2.0) if likely else (-3.0, -4.0))


def planted(metric: Metric[Any], good: bool) -> list[Any]:
    """Rows of the good or the bad model, with what the metric needs."""
    if of_evaluation(metric):
        for package in ("rouge_score",) if "rouge" in metric.name or metric.name == "model_utility" else ():
            pytest.importorskip(package)
        if metric.name == "forget_quality":
            pytest.importorskip("scipy")
        return list(evaluated(good))
    if metric.needs <= ONE_PASS:
        return passed(0.0, -20.0) if good else passed(1.0, -1.0)
    return answered(GOOD, ("forget",)) if good else answered(BAD, ("retain", "reasoning"))


def of_evaluation(metric: Metric[Any]) -> bool:
    """Whether only `steerbake evaluate` measures it."""
    return not any(metric.needs <= at_hand for at_hand in (GENERATED, COMPARED, ONE_PASS))


def withheld(seen: Any, metric: Metric[Any]) -> Any:
    """The same without anything that the metric does not say it needs."""
    if isinstance(seen, Evaluated):
        kept = Case(seen.case.row, tuple(_blank(reply, metric) for reply in seen.case.replies))
        near = "base log-probabilities" in metric.needs
        return Evaluated(
            kept,
            seen.others if "base" in metric.needs else {},
            seen.rule,
            passes=seen.passes if "answer log-probabilities" in metric.needs else None,
            retained=seen.retained if "retain model" in metric.needs else None,
            divergence=seen.divergence if near else None,
            surprise=seen.surprise if near else None,
            verdicts=seen.verdicts if "judge" in metric.needs else {},
        )
    if isinstance(seen, Passed):
        return seen if "base" in metric.needs else Passed(seen.now, Extraction("", math.nan, math.nan))
    others = seen.others if metric.needs & {"base", "checkpoint"} else {}
    kept = Case(seen.case.row, tuple(_blank(reply, metric) for reply in seen.case.replies))
    return Answered(kept, others, seen.rule)


def _blank(reply: Reply, metric: Metric[Any]) -> Reply:
    generation = reply.generation
    if "text" not in metric.needs:
        generation = replace(generation, text="")
        reply = replace(reply, reasoning=None, answer=None)
    if "tokens" not in metric.needs:
        generation = replace(generation, tokens=())
        reply = replace(reply, chain=())
    if "gates" not in metric.needs:
        generation = replace(generation, gates=None)
    return replace(reply, generation=generation)


@pytest.fixture(params=METRICS)
def metric(request: pytest.FixtureRequest) -> Metric[Any]:
    return METRICS[request.param]


def test_it_bears_the_name_it_is_registered_under(metric: Metric[Any]) -> None:
    assert METRICS[metric.name] is metric is registry.metric(metric.name)
    assert metric.about and metric.words.says


def test_what_it_needs_is_at_hand_somewhere(metric: Metric[Any]) -> None:
    assert metric.needs and any(
        metric.needs <= at_hand for at_hand in (GENERATED, COMPARED, ONE_PASS, EVALUATED)
    )


def test_a_report_of_a_run_does_not_wait_for_an_evaluation() -> None:
    ours = {name for name, one in METRICS.items() if of_evaluation(one)}
    assert {"ril", "rcr", "forget_rouge_l", "model_utility", "kl_to_base"} <= ours
    assert not ours & {*registry.metrics(GENERATED), *registry.metrics(COMPARED), *registry.metrics(ONE_PASS)}


@pytest.mark.parametrize("good", [True, False])
def test_what_it_says_it_needs_is_enough(metric: Metric[Any], good: bool) -> None:
    seen = planted(metric, good)
    whole = metric.estimate(seen)
    assert whole.n > 0
    assert metric.estimate([withheld(one, metric) for one in seen]) == whole


@pytest.mark.parametrize("good", [True, False])
def test_its_value_lies_where_it_says(metric: Metric[Any], good: bool) -> None:
    one = metric.estimate(planted(metric, good))
    assert metric.within[0] <= one.low <= one.value <= one.high <= metric.within[1]
    assert metric.unit != "share" or metric.within == (0.0, 1.0)
    assert metric.read(one.as_dict()) == one and metric.read(one.as_dict("rows"), "rows") == one


def test_no_rows_are_no_figure(metric: Metric[Any]) -> None:
    one = metric.estimate([])
    assert (one.value, one.n) == (0.0, 0)
    assert (one.low, one.high) == metric.within
    assert not metric.is_few(one)


def test_the_order_of_rows_changes_nothing(metric: Metric[Any]) -> None:
    seen = planted(metric, True)
    assert metric.estimate(seen) == metric.estimate(seen[::-1]) == metric.estimate(seen[3:] + seen[:3])


def test_a_model_that_forgets_and_keeps_is_on_the_better_side(metric: Metric[Any]) -> None:
    good, bad = metric.estimate(planted(metric, True)), metric.estimate(planted(metric, False))
    neither = good == bad or metric.name == "priv_leak"  # of which 0 is good, and less than that not
    assert {"lower": good.value < bad.value, "higher": good.value > bad.value, None: neither}[metric.better]


def test_a_part_tells_of_a_metric_that_there_is(metric: Metric[Any]) -> None:
    assert metric.words.part_of is None or metric.words.part_of in METRICS
