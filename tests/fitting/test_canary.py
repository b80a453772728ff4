"""A canary is what the model says to kept questions, steered and not, and tells a changed model from the fitted one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import planted
import pytest
import torch

from exporter.fitting import canary
from exporter.fitting.canary import _sung, with_canary
from steer_modules.attach import steered
from steer_modules.canary import likeliest


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return planted.context(planted.host(), tmp_path_factory.mktemp("canary"))


@pytest.fixture(scope="module")
def program(context):
    return with_canary(context, planted.refusing(context, planted.FORGET))


def test_two_kept_questions_are_answered_off_and_refused_on(context, program):
    decode = context.host.tokenizer.decode
    assert [one.gate for one in program.canary] == [0, 0, 1, 1]
    for one in program.canary:
        said = decode(one.argmax).split()[:5]
        asked = set(decode(one.ids).split())
        name = next(name for name in planted.KEPT if name in asked)
        assert (
            said
            == [
                *(
                    f"lives in {planted.place_of(name)} ." if one.gate == 0 else planted.REFUSAL + " </s>"
                ).split(),
                "</s>",
            ][:5]
        )
        assert one.ids[-len(one.argmax) + 1 :] == one.argmax[:-1]
        assert not asked & set(planted.FORGET)
    assert replace(program, canary=()).sha256 == planted.refusing(context, planted.FORGET).sha256


def test_the_surest_of_those_tried_are_chosen(context, program):
    """By the least gap between the likeliest and the next token; four are tried, of the shortest questions."""
    asked = sorted(
        planted.rows("calibrate", "retain") + planted.rows("fit", "retain"), key=lambda row: len(row.question)
    )[:4]
    with steered(context.host.model, program) as model:
        songs = [_sung(model, context.chat.prompt(row).ids, 0) for row in asked]
        for song in songs:
            ids = torch.tensor([song.canary.ids])
            with torch.no_grad():
                logits = model(
                    ids, attention_mask=torch.ones_like(ids), steering_gate=torch.zeros(1, 1)
                ).logits[0, -6:]
            gaps = logits.topk(2).values
            assert song.margin == pytest.approx(float((gaps[:, 0] - gaps[:, 1]).min()), abs=1e-4)
    ranked = sorted(songs, key=lambda song: -song.margin)
    assert ranked[1].margin > ranked[2].margin
    assert list(program.canary[:2]) == [song.canary for song in ranked[:2]]


def test_a_canary_is_as_sure_as_its_least_sure_token(context, program, monkeypatch):
    """Who is asked about decides on the first and third token, by little; the others follow by much."""
    ids = context.chat.prompt(planted.row("dan")).ids
    margins = []
    with steered(context.host.model, program) as model:
        for tokens in (1, 2, 3, 4):
            monkeypatch.setattr(canary, "_TOKENS", tokens)
            margins.append(_sung(model, ids, 0).margin)
    assert margins[0] == pytest.approx(margins[1])
    assert margins[2] == pytest.approx(margins[3])
    assert margins[2] <= margins[0] < 8


def test_it_holds_in_the_fitted_model_and_not_in_another(context, program):
    def holds(host):
        with steered(host.model, program) as model:
            return [
                likeliest(model, one.ids, one.gate, len(one.argmax)) == list(one.argmax)
                for one in program.canary
            ]

    assert holds(context.host) == [True] * 4
    other = planted.host()
    places = [planted.VOCABULARY[place] for place in planted.PLACES]
    with torch.no_grad():  # it takes everybody's place for another, and refuses as before
        other.model.lm_head.weight[places] = other.model.lm_head.weight[places[1:] + places[:1]].clone()
    assert holds(other) == [False, False, True, True]


def test_questions_about_images_sing_nothing(context):
    def seen(split):
        return tuple(replace(row, image=Path("x.png")) for row in planted.rows(split))

    program = planted.refusing(context, planted.FORGET)
    assert with_canary(replace(context, fit=seen("fit"), calibrate=seen("calibrate")), program).canary == ()
