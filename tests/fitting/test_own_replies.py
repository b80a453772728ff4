"""Nothing is asked twice, in one run or in the next, and a line that was cut off is asked again."""

from __future__ import annotations

import numerals
import pytest

from exporter.errors import DataError
from exporter.fitting.own_replies import OwnReplies
from exporter.host import Generated
from exporter.types import Prompt

PROMPTS = [Prompt(f"{n}", (n,)) for n in range(5)]


class Model:
    """Says a prompt's ids twice, and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, prompts):
        self.asked.append([one.ids for one in prompts])
        return [Generated((*one.ids, *one.ids)) for one in prompts]


def said(prompts):
    return [Generated((*one.ids, *one.ids)) for one in prompts]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "own.jsonl"


def test_each_prompt_is_asked_once_whatever_the_order(path):
    model, replies = Model(), OwnReplies(path)
    mixed = [PROMPTS[1], PROMPTS[0], PROMPTS[1]]
    assert replies.of(mixed, model) == said(mixed)
    assert replies.of(PROMPTS, model) == said(PROMPTS)
    assert replies.of(PROMPTS[::-1], model) == said(PROMPTS[::-1])
    assert model.asked == [[(1,), (0,)], [(2,), (3,), (4,)]]


def test_another_run_knows_them(path):
    OwnReplies(path).of(PROMPTS[:3], Model())
    model = Model()
    assert OwnReplies(path).of(PROMPTS, model) == said(PROMPTS)
    assert model.asked == [[(3,), (4,)]]
    assert OwnReplies(path).of(PROMPTS, Model()) == said(PROMPTS)


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_line_that_was_cut_off_is_asked_again_and_breaks_no_other(path, cut):
    OwnReplies(path).of(PROMPTS[:3], Model())
    path.write_bytes(path.read_bytes()[: -cut - 1])
    model = Model()
    assert OwnReplies(path).of(PROMPTS, model) == said(PROMPTS)
    assert model.asked == [[(2,), (3,), (4,)]]
    model = Model()
    assert OwnReplies(path).of(PROMPTS, model) == said(PROMPTS)
    assert model.asked == []


def test_text_ids_and_pictures_tell_prompts_apart(path, tmp_path):
    shown = [numerals.picture(tmp_path / f"{n}.png", n) for n in range(2)]
    prompts = [
        Prompt("a", (1,)),
        Prompt("b", (1,)),
        Prompt("a", (2,)),
        *(Prompt("a", (1,), (one,)) for one in shown),
    ]
    model, replies = Model(), OwnReplies(path)
    replies.of(prompts, model)
    assert len(model.asked[0]) == len(prompts)
    numerals.picture(shown[0], 9)
    replies.of(prompts, model)
    assert model.asked[1:] == [[(1,)]]


def test_a_picture_that_is_gone_is_named(path, tmp_path):
    with pytest.raises(DataError, match=r"gone\.png"):
        OwnReplies(path).of([Prompt("a", (1,), (tmp_path / "gone.png",))], Model())
