"""Which form of an adapter is exported: the first that says enough, else the better; never one that would answer as the base does."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from exporter.errors import FitError
from exporter.pipeline import distillation
from exporter.pipeline.distillation import chosen
from exporter.training.distil import Divergence

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


def test_without_a_held_conversation_to_forget_there_is_nothing_to_hold_it_to(monkeypatch) -> None:
    best, _ = choose(monkeypatch, {"trained": Divergence(0.0, 0, 0.0, 10, 1.0, 1.0)})
    assert best.form == "trained"
