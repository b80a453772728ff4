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
from exporter.evaluation.metrics.base import COMPARED, GENERATED, ONE_PASS, Answered, Metric, Passed
from exporter.evaluation.refusals import RefusalRule

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
METRICS = registry.metrics()


def answered(said: dict[str, str], fires: tuple[str, ...]) -> list[Answered]:
    others = {one.id: case(one, text) for one, text in zip(ROWS, BASE_SAYS, strict=True)}
    cases = [case(one, said[one.id], model="ours", fired=one.role in fires) for one in ROWS]
    return [Answered(one, others, RULE) for one in cases]


def passed(strength: float, secret: float) -> list[Passed]:
    return [
        Passed(Extraction(f"f{n}", strength, secret - n), Extraction(f"f{n}", 1.0, -1.0 - n)) for n in (1, 2)
    ]


def planted(metric: Metric[Any], good: bool) -> list[Any]:
    """Rows of the good or the bad model, with what the metric needs."""
    if metric.needs <= ONE_PASS:
        return passed(0.0, -20.0) if good else passed(1.0, -1.0)
    return answered(GOOD, ("forget",)) if good else answered(BAD, ("retain", "reasoning"))


def withheld(seen: Any, metric: Metric[Any]) -> Any:
    """The same without anything that the metric does not say it needs."""
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
    assert metric.needs and any(metric.needs <= at_hand for at_hand in (GENERATED, COMPARED, ONE_PASS))


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
    assert {"lower": good.value < bad.value, "higher": good.value > bad.value, None: good == bad}[
        metric.better
    ]


def test_a_part_tells_of_a_metric_that_there_is(metric: Metric[Any]) -> None:
    assert metric.words.part_of is None or metric.words.part_of in METRICS
