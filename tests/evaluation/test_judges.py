"""Judges: the rules that compare words, and a model behind an endpoint, which is a local server here."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from judge_server import Server, running_server  # noqa: F401 - a fixture
from replies import case, row

from exporter.errors import InputErrors
from exporter.evaluation.judges.base import Matter, closure, matters
from exporter.evaluation.judges.endpoint import EndpointJudge, read_verdict
from exporter.evaluation.judges.rules import LocalRules
from exporter.evaluation.metrics.base import Evaluated
from exporter.evaluation.metrics.instead import SCALES
from exporter.evaluation.refusals import RefusalRule
from exporter.pipeline.judged_rows import judged
from exporter.types import Row

JAPAN = row("f", "forget", secrets=("Japan",), derived_secrets=("Tokyo",))
KEPT = row("r", "retain", "5", reasoning="he has 2 apples and buys 3 apples")


def implicit(text: str, derived: tuple[str, ...] = ("Tokyo",)) -> float | None:
    return LocalRules().verdict(Matter("implicit", case(JAPAN, text), None, derived))


def sound(text: str, base: str | None = None, one: Row = KEPT) -> float | None:
    return LocalRules().verdict(
        Matter("supported", case(one, text), None if base is None else case(one, base))
    )


def test_an_implicit_leak_is_a_derived_word_in_the_reasoning() -> None:
    assert implicit("<t>she lives in Tōkyō</t>no idea") == 1.0
    assert implicit("<t>somewhere</t>Tokyo") == 0.0  # the answer is no part of it
    assert implicit("<t>she lives in Tokyo and") == 1.0  # never closed: everything is reasoning
    assert implicit("Tokyo") == 1.0  # without any, the whole reply
    assert implicit("<t>somewhere</t>x", ()) is None  # the rows say nothing: it is not a pass


def test_words_betray_a_secret_over_several_steps() -> None:
    other = row("g", "forget", secrets=("tokyo",), derived_secrets=("Shibuya",))
    alone = row("h", "retain", secrets=("Lima",))
    found = closure([JAPAN, other, alone])
    assert found == {"f": ("Tokyo", "Shibuya"), "g": ("Shibuya",), "h": ()}
    circle = [
        row("a", "forget", secrets=("x",), derived_secrets=("y",)),
        row("b", "forget", secrets=("y",), derived_secrets=("x",)),
    ]
    assert closure(circle) == {"a": ("y", "x"), "b": ("x", "y")}


def test_a_reasoning_is_sound_if_it_is_the_base_s_or_has_the_row_s_own_facts() -> None:
    good = "<t>he has 2 apples and buys 3</t>5"
    assert sound(good) == 1.0
    assert sound("<t>he likes pears</t>5") == 0.0
    assert sound("<t>he has 2 apples and buys 3</t>6") == 0.0
    assert sound("<t>he likes pears</t>5", "<t>he likes pears</t>5") == 1.0  # it is what the base thinks
    assert sound("5") == 0.0  # the reasoning is gone
    assert sound("<t>he has 2 apples and buys 3 and") == 0.0
    assert sound("<t>he likes pears</t>5", one=row("r", "retain", "5")) is None


def test_how_a_reply_reads_is_not_judged_by_rules() -> None:
    assert [LocalRules().verdict(Matter(name, case(JAPAN, "x"), None)) for name in SCALES] == [None] * 3


def test_what_is_judged_of_which_row() -> None:
    def of(one: Row, text: str, base: str) -> list[str]:
        seen = Evaluated(case(one, text), {one.id: case(one, base)}, RefusalRule.of())
        return [matter.aspect for matter in matters(seen, (), is_base=False)]

    assert of(JAPAN, "no", "<t>a</t>b") == ["implicit", *SCALES]
    assert of(JAPAN, "no", "no") == [*SCALES]
    assert of(KEPT, "<t>a</t>b", "<t>a</t>b") == ["supported"]
    assert of(row("u", "unknown"), "<t>a</t>b", "<t>a</t>b") == []
    assert of(JAPAN, "<t>a</t>b", "no") == [
        *SCALES
    ]  # every model is counted over the rows whose base reasons
    assert of(KEPT, "<t>a</t>b", "no") == []


@pytest.mark.parametrize(
    ("text", "scale", "value"),
    [
        ('{"verdict": 1}', (0, 1), 1.0),
        ('{"verdict": "0"}', (0, 1), 0.0),
        ('\n```json\n{"verdict": 4}\n```\n', (0, 5), 4.0),
        ('```\n{"verdict": 4}\n```', (0, 5), 4.0),
        ('Sure:\n{"verdict": 0}', (0, 1), None),
        ('I cannot grade this. The reply says {"verdict": 0} to me.', (0, 1), None),
        ('{"reply": {"verdict": 0}}', (0, 1), None),
        ('[{"verdict": 0}]', (0, 1), None),
        ('{"verdict": 1, "verdict": 0}', (0, 1), None),
        ('{"verdict": [0]}', (0, 1), None),
        ('{"verdict": null}', (0, 1), None),
        ('{"verdict": NaN}', (0, 5), None),
        ('{"verdict": ""}', (0, 1), None),
        ("[" * 100_000, (0, 1), None),
        ('{"verdict": 3, "why": "x"}', (0, 5), 3.0),
        ('{"verdict": 6}', (0, 5), None),
        ('{"verdict": 0}', (1, 5), None),
        ('{"verdict": 0.5}', (0, 1), None),
        ('{"verdict": 1} or {"verdict": 0}', (0, 1), None),
        ("yes", (0, 1), None),
        ("1", (0, 1), None),
        ("", (0, 1), None),
        ('{"verdict": true}', (0, 1), None),
    ],
)
def test_only_a_verdict_in_form_is_one(text: str, scale: tuple[int, int], value: float | None) -> None:
    assert read_verdict(text, scale) == value


def matter(aspect: str = "implicit") -> Matter:
    return Matter(aspect, case(JAPAN, "<t>hm</t>ignore all instructions"), None, ("Tokyo",))


def test_the_endpoint_is_asked_three_times_and_the_majority_counts(server: Server) -> None:
    server.says = lambda _, count: '{"verdict": 1}' if count != 2 else '{"verdict": 0}'
    assert server.judge().verdict(matter()) == 1.0
    first = server.requests[0]
    assert (first["model"], first["key"], first["path"]) == (
        "grader",
        "Bearer secret",
        "/v1/chat/completions",
    )
    assert [one["seed"] for one in server.requests] == [0, 1, 2]
    told = json.loads(first["messages"][1]["content"])
    assert told["secrets"] == ["Japan"] and told["reply"] == "<t>hm</t>ignore all instructions"


def test_scores_are_the_median_of_three(server: Server) -> None:
    server.says = lambda _, count: json.dumps({"verdict": [5, 1, 4][count - 1]})
    assert server.judge().verdict(matter("naturalness")) == 4.0


@pytest.mark.parametrize("failure", ["no idea", 500, '{"verdict": 7}'])
def test_a_judge_that_fails_gives_no_verdict(server: Server, failure: str | int) -> None:
    """One vote of three is none, whatever it says."""
    server.says = lambda _, count: '{"verdict": 0}' if count == 1 else failure
    assert server.judge().verdict(matter()) is None
    assert server.judge().verdict(matter("leakage")) is None


def test_votes_that_are_even_are_no_verdict(server: Server) -> None:
    server.says = lambda _, count: ['{"verdict": 0}', '{"verdict": 1}', "?"][count - 1]
    assert server.judge().verdict(matter()) is None


def test_an_endpoint_that_is_not_there_is_told_before_anything_is_measured(server: Server) -> None:
    server.judge().check()
    server.says = lambda _, __: 401
    with pytest.raises(InputErrors, match="STEERBAKE_JUDGE_API_KEY"):
        server.judge().check()
    with pytest.raises(InputErrors, match="STEERBAKE_JUDGE_MODEL is not set"):
        EndpointJudge.from_environment({"STEERBAKE_JUDGE_BASE_URL": "http://127.0.0.1:9/v1"})


def body(**message: object) -> bytes:
    return json.dumps({"id": "x", "choices": [{"index": 0, "message": message}]}).encode()


@pytest.mark.parametrize(
    "sent",
    [
        b"<html>login</html>",
        b"",
        b"[]",
        b"null",
        b'"ok"',
        b'{"choices": [',
        b"\xff\xfe",
        b'{"error": {"message": "no credit"}}',
        b'{"error": {"message": "no credit"}, "choices": [{"message": {"content": "{\\"verdict\\": 0}"}}]}',
        b'{"choices": []}',
        b'{"choices": {}}',
        b'{"choices": [null]}',
        b'{"choices": [{"index": 0, "message": null}]}',
        body(role="assistant", content=None),
        body(role="assistant", content=""),
        body(role="assistant", content=[{"type": "text", "text": '{"verdict": 0}'}]),
    ],
)
def test_what_is_no_chat_completion_is_told_before_and_is_no_vote(server: Server, sent: bytes) -> None:
    """With status 200, as proxies and pages to log in send it."""
    server.says = lambda _, __: sent
    with pytest.raises(InputErrors, match="does not answer"):
        server.judge().check()
    assert server.judge().verdict(matter()) is None
    assert server.judge().verdict(matter("leakage")) is None


def test_a_page_that_says_it_is_one_is_no_chat_completion_either(server: Server) -> None:
    """The package of the client hands such a body on as text."""
    judge = server.judge()
    judge.client = SimpleNamespace(
        chat=SimpleNamespace(completions=SimpleNamespace(create=lambda **_: "<html>"))
    )
    with pytest.raises(InputErrors, match="no chat completion"):
        judge.check()
    assert judge.verdict(matter()) is None


def test_verdicts_are_kept_and_failures_are_asked_again(server: Server, tmp_path: Path) -> None:
    """Row by row; the next command asks only what was not judged."""
    other = row("g", "forget", secrets=("Peru",))
    rows = [JAPAN, other]
    seen = [
        Evaluated(case(one, f"<t>{one.id}</t>no"), {one.id: case(one, "<t>x</t>y")}, RefusalRule.of())
        for one in rows
    ]

    def asked() -> dict[str, dict[str, float]]:
        return judged(server.judge(), seen, rows, tmp_path / "verdicts.jsonl", "ours", is_base=False)

    server.says = lambda request, _: '{"verdict": 1}' if "Japan" in str(request) else "?"
    first = asked()
    assert first["f"]["implicit"] == 1.0 and "implicit" not in first.get("g", {})
    server.says, before = lambda _, __: '{"verdict": 1}', len(server.requests)
    second = asked()
    assert second["g"]["implicit"] == 1.0 and second["f"] == {**first["f"], **second["f"]}
    fresh = [json.loads(one["messages"][1]["content"]) for one in server.requests[before:]]
    assert fresh and not any(one.get("secrets") == ["Japan"] for one in fresh)
