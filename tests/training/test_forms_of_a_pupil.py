"""Which form of an adapter is exported: the first that says enough, else the better; never one that would answer as the base does."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import planted
import pytest
import torch

from exporter.errors import FitError
from exporter.pipeline import distillation
from exporter.pipeline.distillation import chosen, refuse_one_sided
from exporter.targets.values import CalibrationSet
from exporter.training.distil import Divergence, measured
from exporter.types import Conversation

HOST = SimpleNamespace(model=None, architecture="Tiny")


def near(forget: float, forget_same: float = 0.0, kept_same: float = 1.0) -> Divergence:
    return Divergence(forget, 10, 0.0, 10, forget_same, kept_same)


BASE = near(4.0)


def choose(monkeypatch, found: dict[str, Divergence | None], base: Divergence = BASE):
    """What is chosen of forms with these figures, and the forms that were made."""
    made, on = [], []

    def make(name):
        made.append(name)
        return name if found[name] is not None else None

    def edited(model, edit):
        del model
        on.append(edit)
        return nullcontext()

    monkeypatch.setattr(distillation, "edited", edited)
    monkeypatch.setattr(distillation, "measured", lambda *_, **__: found[on.pop()] if on else base)
    return chosen(tuple(found), make, HOST, [], 4), made


def test_the_first_form_that_says_enough_ends_the_search(monkeypatch) -> None:
    best, made = choose(monkeypatch, {"switched": near(0.3, 0.95, 0.92), "trained": near(0.1, 1.0, 1.0)})
    assert best.form == "switched" and made == ["switched"]


@pytest.mark.parametrize("kept", [0.6, 0.8])
def test_else_the_form_with_the_more_replies_is_taken(monkeypatch, kept) -> None:
    best, made = choose(monkeypatch, {"switched": near(0.3, 0.9, 0.7), "trained": near(0.3, 0.9, kept)})
    assert made == ["switched", "trained"]
    assert best.form == ("switched" if kept < 0.7 else "trained")


def test_a_form_that_the_model_does_not_have_is_passed_over(monkeypatch) -> None:
    best, _ = choose(monkeypatch, {"switched": None, "trained": near(0.3, 0.5)})
    assert best.form == "trained"
    with pytest.raises(FitError, match="--form trained"):
        choose(monkeypatch, {"switched": None})


@pytest.mark.parametrize("forget", [4.0, 2.1, float("nan")])
def test_an_adapter_that_answers_as_the_base_does_is_refused(monkeypatch, forget) -> None:
    """It keeps every reply, and forgets nothing."""
    with pytest.raises(FitError, match="does not say what the checkpoint says"):
        choose(monkeypatch, {"switched": near(forget, 0.0, 1.0)})


def test_a_checkpoint_that_says_what_its_base_says_has_no_pupil(monkeypatch) -> None:
    with pytest.raises(FitError, match="does not say what the checkpoint says"):
        choose(monkeypatch, {"trained": near(0.0, 1.0, 1.0)}, base=near(0.0, 1.0))


@pytest.mark.parametrize(
    ("fired", "words"), [((), "in none of 0"), ((False, False), "in none of 2"), ((True,), "in all of 1")]
)
def test_conversations_of_one_side_alone_are_refused(fired, words) -> None:
    """Of an adapter that was measured on none with a gate on, nobody knows whether it forgets."""
    with pytest.raises(FitError, match=f"{words}.* to measure an adapter on; give the recipe more rows"):
        refuse_one_sided([SimpleNamespace(fired=one) for one in fired], "measure an adapter on")


def test_conversations_of_both_sides_are_taken() -> None:
    refuse_one_sided([SimpleNamespace(fired=one) for one in (True, False)], "learn from")


def test_a_decision_alone_is_no_reply(tmp_path) -> None:
    """A first token is sooner the same than a whole reply, and would pass for a kept one."""
    host = planted.host()
    context = planted.context(host, tmp_path)
    program = planted.refusing(context, planted.FORGET).with_fingerprint(f"sha256:{'0' * 64}")
    asked = [
        Conversation(context.chat.prompt(row), row.role, answered=number % 2 == 0)
        for number, row in enumerate(planted.rows("held", "retain"))
    ]
    held = distillation._lessons(host, program, CalibrationSet([], asked, 6, 4), "held")
    assert [len(one.sequence.response) == 1 for one in held] == [not one.answered for one in asked]
    with torch.no_grad():  # everybody lives elsewhere: the first word is the same, the reply is not
        host.model.lm_head.weight[[planted.VOCABULARY[one] for one in planted.PLACES]] *= -1
    found = measured(host, held, batch_size=4)
    assert (found.kept_rows, found.kept_same) == (len(asked), 0.0)
