"""A chat template that tells the day: what is recorded on one day is the same on another, and no exported folder tells an old one."""

from __future__ import annotations

from datetime import datetime

import pytest
import tiny_run
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

from exporter.data.chat import Chat
from exporter.data.conversation import ChatTemplate, Message
from exporter.data.headers import generation_headers
from exporter.data.turns import literal_turns
from exporter.targets.onnx_runner import conversation
from exporter.types import Row, Turn

DATED = "[user] {{ strftime_now('%d %b %Y') }} " + tiny_run.TEMPLATE
ASKED = Row("a", "where does ada live ?", "oslo", "forget", secrets=("oslo",))
LATER = Row("b", "and ben ?", "lima", "forget", history=(Turn(ASKED.question, "in oslo ."),))


@pytest.fixture
def tokenizer(tmp_path):
    tiny_run.write_base(tmp_path / "base")
    found = AutoTokenizer.from_pretrained(tmp_path / "base")
    found.chat_template = DATED
    return found


def on(monkeypatch: pytest.MonkeyPatch, day: datetime) -> None:
    """Moves the clock that Transformers' templates read."""

    class Day(datetime):
        @classmethod
        def now(cls, tz=None):  # noqa: ARG003
            return day

    monkeypatch.setattr(chat_template_utils, "datetime", Day)


def rendered(tokenizer, question: str) -> str:
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
    )


def test_what_is_recorded_on_one_day_is_the_same_on_another(tokenizer, monkeypatch):
    seen = []
    for day in (datetime(2025, 1, 1), datetime(2026, 11, 28)):
        on(monkeypatch, day)
        assert day.strftime("%d %b %Y") in rendered(tokenizer, "x"), "the control: the clock was moved"
        chat = Chat(tokenizer)
        seen.append(
            [
                generation_headers(tokenizer),
                chat.prompt(ASKED),
                chat.prompt(LATER),
                literal_turns(ChatTemplate(tokenizer)),
            ]
        )
    assert seen[0] == seen[1]
    assert seen[0][2].text.startswith(seen[0][1].text), "a conversation stays on its day"


def test_nothing_is_fitted_to_one_day(tokenizer):
    template = ChatTemplate(tokenizer)
    days = {template.render([Message("user", f"where does {name} live ?")])[7:18] for name in tiny_run.NAMES}
    assert len(days) > 3


def test_the_clock_is_transformers_own_again_behind_it(tokenizer):
    Chat(tokenizer).prompt(ASKED)
    assert datetime.now().strftime("%Y") in rendered(tokenizer, "x")


def test_the_runner_tells_the_day_on_which_it_runs(tokenizer, monkeypatch):
    turns = literal_turns(ChatTemplate(tokenizer))
    assert turns is not None
    for day in (datetime(2025, 1, 1), datetime(2026, 11, 28)):
        on(monkeypatch, day)
        monkeypatch.setattr("exporter.targets.onnx_runner.datetime", chat_template_utils.datetime)
        assert conversation(turns._asdict(), ["hello ?"], image=False) == rendered(tokenizer, "hello ?")


def test_a_template_that_reckons_with_the_day_falls_into_no_pieces(tokenizer):
    tokenizer.chat_template = "{% if strftime_now('%Y') > '2026' %}late{% endif %} " + tiny_run.TEMPLATE
    assert literal_turns(ChatTemplate(tokenizer)) is None


def test_a_day_in_the_header_is_no_part_of_it(tokenizer):
    plain = generation_headers(tokenizer)
    day = "{{ ['ada', 'ben', 'cora'][strftime_now('%d') | int % 3] }}"
    begun = " [assistant]{% endif %}"
    tokenizer.chat_template = tiny_run.TEMPLATE.replace(begun, f" {day}{begun}")
    assert generation_headers(tokenizer) == plain
