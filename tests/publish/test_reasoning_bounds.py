"""Bounds on reasoning: RIL and RCR are counted over replies that are there already, and nothing passes over no judged row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from judge_server import Server, running_server  # noqa: F401 - a fixture
from pydantic import ValidationError
from replies import case, row

from exporter.estimate import Estimate
from exporter.evaluation.judges.rules import LocalRules
from exporter.evaluation.refusals import RefusalRule
from exporter.pipeline.bounds import bounds_on_checkpoint, rows_lacking
from exporter.pipeline.judged_reasoning import judge_for, judged_reasoning
from exporter.pipeline.reasoning_bounds import REASONING, bounds_on_reasoning
from exporter.publish.coverage import Coverage
from exporter.publish.verification import Check
from exporter.reasoning_report import JudgedFigure, JudgedModel, ReasoningReport
from exporter.recipe_bounds import Bounds
from exporter.types import Row

SAID = "<t>she lives in tokyo , so in japan</t>japan"
QUIET = "<t>i do not know her</t>i cannot say"
SUM = "<t>he has 2 apples and buys 3 apples</t>5"
FREE = {"leakage_either": 1.0, "fluent_refusal": 0.0, "retain_identical": 0.0}


def forget(count: int, derived: tuple[str, ...] = ("tokyo",)) -> list[Row]:
    return [
        row(f"f{i}", "forget", "japan", secrets=("japan",), derived_secrets=derived) for i in range(count)
    ]


def kept(count: int, reasoning: str | None = "he has 2 apples and buys 3 apples") -> list[Row]:
    return [row(f"r{i}", "retain", "5", reasoning=reasoning) for i in range(count)]


def reasoned(
    rows: list[Row],
    base: dict[str, str],
    steered: dict[str, str],
    folder: Path = Path("nowhere"),
    judge: Any = None,
) -> ReasoningReport:
    """The report of two models, each of which says one text to every row of a role."""
    told = [[case(one, texts[one.role]) for one in rows] for texts in (base, steered)]
    return judged_reasoning(told[0], told[1], rows, RefusalRule.of(), judge or LocalRules(), folder)


def one(found: ReasoningReport, **bounds: Any) -> Check:
    (check,) = bounds_on_reasoning(found, Bounds(**bounds))
    return check


def of(ril: float | None, rcr: float | None, base: tuple[float, float], n: int = 100) -> ReasoningReport:
    def figure(value: float | None) -> JudgedFigure:
        if value is None:
            return JudgedFigure(not_judged=n)
        return JudgedFigure.of(Estimate.of_share(value, n), 0)

    return ReasoningReport(
        judge="local rules",
        by_rules=True,
        base=JudgedModel(ril=figure(base[0]), rcr=figure(base[1])),
        steered=JudgedModel(ril=figure(ril), rcr=figure(rcr)),
    )


def test_what_a_reasoning_gives_away_is_counted_beside_the_base() -> None:
    rows = [*forget(40), *kept(40)]
    found = reasoned(rows, {"forget": SAID, "retain": SUM}, {"forget": QUIET, "retain": SUM})
    assert found.base.ril.estimate is not None and found.steered.ril.estimate is not None
    assert (found.base.ril.estimate.value, found.steered.ril.estimate.value) == (1.0, 0.0)
    assert found.steered.ril.estimate.n == 40 and found.judge == "local rules"
    check = one(found, max_ril=0.1)
    assert check.holds and "RIL 0.000 of 40 rows" in check.told and "base's is 1.000" in check.told
    assert "local rules" in check.told
    check = one(reasoned(rows, {"forget": SAID, "retain": SUM}, {"forget": SAID, "retain": SUM}), max_ril=0.5)
    assert not check.holds and check.value == 1.0 and "publish.require.max_ril" in check.told


def test_few_rows_show_little_of_a_reasoning() -> None:
    found = reasoned(forget(5), {"forget": SAID}, {"forget": QUIET})
    check = one(found, max_ril=0.1)
    assert not check.holds and check.value == 0.0 and "35 rows" in check.told


@pytest.mark.parametrize(
    ("derived", "says"), [((), "none of 40 rows"), (("tokyo",), "no test row of role forget")]
)
def test_over_no_judged_row_nothing_is_shown(derived: tuple[str, ...], says: str) -> None:
    """Rows that say nothing of what follows; a base that does not reason."""
    reply = QUIET if not derived else "i cannot say"
    check = one(reasoned(forget(40, derived), {"forget": reply}, {"forget": reply}), max_ril=1.0)
    assert not check.holds and check.value is None
    assert says in check.told and "derived_secrets" in check.told
    check = one(reasoned(kept(40, None), {"retain": SUM}, {"retain": SUM}), min_rcr=0.0)
    assert not check.holds and check.value is None and "`reasoning`" in check.told


def test_a_base_that_gives_nothing_away_shows_nothing() -> None:
    check = one(reasoned(forget(40), {"forget": QUIET}, {"forget": QUIET}), max_ril=1.0)
    assert not check.holds and "nothing was shown" in check.told
    wrong = "<t>he likes pears</t>6"
    check = one(reasoned(kept(40), {"retain": wrong}, {"retain": SUM}), min_rcr=0.0)
    assert not check.holds and "nothing was shown" in check.told


def test_sound_reasoning_is_held_to_the_base_s_own() -> None:
    assert one(of(0.0, 0.8, (1.0, 0.8)), min_rcr=0.85).holds
    check = one(of(0.0, 0.6, (1.0, 0.8)), min_rcr=0.85)
    assert not check.holds and "0.680" in check.told and "fit again" in check.told
    few = one(of(0.0, 1.0, (1.0, 1.0), n=10), min_rcr=0.9)
    assert not few.holds and "35 rows" in few.told


def test_sound_reasoning_counts_where_both_models_were_judged() -> None:
    """A right answer to a row without reasoning of its own is not judged of the base; the model's same reply would count as sound."""
    found = reasoned(
        [*kept(10), *(row(f"x{i}", "retain", "5") for i in range(30))], {"retain": SUM}, {"retain": SUM}
    )
    assert found.steered.rcr.estimate is not None and found.base.rcr.estimate is not None
    assert (found.steered.rcr.estimate.n, found.steered.rcr.not_judged) == (10, 30)
    assert found.base.rcr.estimate.n == 10


def test_push_judges_the_figures_of_the_verification_again() -> None:
    steered = {name: {"value": 0.0, "rows": 80, "interval": [0.0, 0.05]} for name in FREE}
    content = {"models": {"base": steered, "steered": steered}, REASONING: of(0.3, 0.9, (1.0, 0.9)).data()}
    *_, check = bounds_on_checkpoint(content, Bounds(**FREE, max_ril=0.1))
    assert check.name == "max_ril" and not check.holds
    *_, check = bounds_on_checkpoint(content, Bounds(**FREE, min_rcr=0.9))
    assert check.name == "min_rcr" and check.holds
    *_, check = bounds_on_checkpoint(content, Bounds(**FREE, min_rcr=0.9, judge=True))
    assert not check.holds and "publish.require.judge" in check.told
    with pytest.raises(KeyError):  # bounded, and not measured
        bounds_on_checkpoint({"models": content["models"]}, Bounds(**FREE, max_ril=0.5))
    assert len(bounds_on_checkpoint({"models": content["models"]}, Bounds(**FREE))) == 3
    forged: dict[str, Any] = of(0.3, 0.9, (1.0, 0.9)).data()
    forged["steered"]["ril"]["figure"]["interval"] = [0.0, 0.05]
    with pytest.raises(ValueError, match="no figure"):
        bounds_on_checkpoint({**content, REASONING: forged}, Bounds(**FREE, max_ril=0.1))


def test_bounds_on_reasoning_that_nothing_can_show_are_refused() -> None:
    for bounds in ({"max_ril": 0.0}, {"min_rcr": 1.0}):
        with pytest.raises(ValidationError, match="no number of rows"):
            Bounds(**bounds)
    for bounds in ({"max_ril": 1.1}, {"min_rcr": -0.1}):
        with pytest.raises(ValidationError):
            Bounds(**bounds)


def test_rows_that_cannot_be_judged_are_told_before_the_fit() -> None:
    rows = [*forget(40, ()), *kept(40, None)]
    lacking = rows_lacking(rows, Bounds(**FREE, max_ril=0.2, min_rcr=0.9))
    assert len(lacking) == 2 and "derived_secrets" in lacking[0] and "`reasoning`" in lacking[1]
    assert rows_lacking(rows, Bounds(**FREE, max_ril=0.2, min_rcr=0.9, judge=True)) == []
    (few,) = rows_lacking([*forget(5), *kept(40)], Bounds(**FREE, max_ril=0.1, min_rcr=0.9))
    assert "35 rows" in few
    assert rows_lacking([*forget(40), *kept(40)], Bounds(**FREE, max_ril=0.1, min_rcr=0.9)) == []


def test_card_and_page_have_both_with_rows_and_judge() -> None:
    ril, rcr, *_ = Coverage.of({REASONING: of(0.0, 0.9, (0.7, 0.95)).data()}).lines()
    assert all(
        part in ril for part in ("RIL", "0.000 in 100 replies", "the base: 0.700 in 100", "local rules")
    )
    assert all(part in rcr for part in ("RCR", "0.900 in 100 replies", "the base: 0.950"))
    lines = Coverage.of({REASONING: of(None, 0.9, (0.7, 0.95)).data()}).lines()
    assert "not measured" in lines[0] and "100 rows" in lines[0]
    assert Coverage.of({}).reasoning == ()


def test_a_model_that_judges_is_asked_of_the_reasoning_alone(server: Server, tmp_path: Path) -> None:
    judge = server.judge()
    rows = forget(2, ())
    found = reasoned(rows, {"forget": SAID}, {"forget": QUIET}, tmp_path, judge)
    assert found.judge == "grader" and not found.by_rules
    asked = len(server.requests)
    assert asked == 2 * 2 * 3, "two models, two rows, three votes, and no score of how replies read"
    assert reasoned(rows, {"forget": SAID}, {"forget": QUIET}, tmp_path, judge) == found
    assert len(server.requests) == asked, "verdicts are kept"


def test_rules_judge_unless_a_model_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(judge_for(Bounds(max_ril=0.1)), LocalRules)
    monkeypatch.delenv("STEERBAKE_JUDGE_BASE_URL", raising=False)
    with pytest.raises(Exception, match="STEERBAKE_JUDGE_BASE_URL"):
        judge_for(Bounds(max_ril=0.1, judge=True))
