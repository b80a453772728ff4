"""Logits of a padding column are read too: by ``generate`` of prompts padded on the right, and of a mask that hides its last token."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from tiny import logits
from torch import Tensor

from steer_modules.attach import steered

LAST = tiny.LAYERS - 1
"""An edit of the last block alone: no earlier one reaches a padding column."""


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.build("llama")


def programs(model: Any) -> dict[str, Any]:
    """Gates that are on behind every prompt, by where they decide; and none."""
    edit = tiny.turn(LAST, seed=9)
    return {
        "header": tiny.program(model, [tiny.fixed_gate(True)], [edit]),
        "token": tiny.program(model, [tiny.fixed_gate(True, pool="token")], [edit]),
        "none": tiny.program(model, [], [tiny.turn(LAST, gate=None, seed=9)]),
    }


def moved(model: Any, program: Any, inputs: dict[str, Tensor]) -> Tensor:
    """How far the logits of the last column [B] lie from the base's."""
    base = logits(model, **inputs)[:, -1]
    with steered(model, program):
        return (logits(model, **inputs)[:, -1] - base).abs().amax(-1)


@pytest.mark.parametrize("kind", ["header", "token", "none"])
def test_padding_behind_a_prompt_is_steered(model: Any, kind: str) -> None:
    batch = tiny.batch([tiny.prompt("llama", 1, 9), tiny.prompt("llama", 2, 5)], "right")
    assert not batch["attention_mask"][1, -1], "the control: the second row is padded"
    assert bool((moved(model, programs(model)[kind], batch) > 0.1).all())


@pytest.mark.parametrize("kind", ["header", "token", "none"])
def test_the_first_token_behind_padding_on_the_right_is_not_the_bases(model: Any, kind: str) -> None:
    batch = tiny.batch([tiny.prompt("llama", 1, 9), tiny.prompt("llama", 2, 5)], "right")
    options = {
        "max_new_tokens": 1,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    base = model.generate(**batch, **options).logits[0]
    with steered(model, programs(model)[kind]):
        found = model.generate(**batch, **options).logits[0]
    assert bool(((found - base).abs().amax(-1) > 0.1).all())


def test_more_tokens_behind_padding_on_the_right_say_where_to_pad(model: Any) -> None:
    batch = tiny.batch([tiny.prompt("llama", 1, 9), tiny.prompt("llama", 2, 5)], "right")
    with steered(model, programs(model)["token"]), pytest.raises(ValueError, match="pad prompts on the left"):
        model.generate(**batch, max_new_tokens=4, do_sample=False)


def masked(inputs: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    """A prompt whose last column sees all but itself."""
    length = inputs["input_ids"].shape[1]
    if how == "flat":
        mask = torch.ones(1, length, dtype=torch.long)
        mask[:, -1] = 0
    else:
        mask = torch.ones(length, length, dtype=torch.bool).tril()[None, None].clone()
        mask[..., -1, -1] = False
    return {**inputs, "attention_mask": mask}


@pytest.mark.parametrize("how", ["flat", "4-D"])
def test_a_mask_that_hides_the_end_of_the_prompt(model: Any, how: str) -> None:
    """A gate that reads every column is on before it; one that reads the header alone has nothing to read, which raises."""
    inputs = masked(tiny.prompt("llama", 1, 9), how)
    for kind in ("token", "none"):
        assert bool((moved(model, programs(model)[kind], inputs) > 0.1).all())
    with steered(model, programs(model)["header"]), pytest.raises(ValueError, match="generation header"):
        logits(model, **inputs)


@pytest.mark.parametrize("kind", ["header", "token"])
def test_a_row_without_any_column_is_refused(model: Any, kind: str) -> None:
    inputs = tiny.prompt("llama", 1, 9)
    inputs["attention_mask"] = torch.zeros_like(inputs["input_ids"])
    with steered(model, programs(model)[kind]), pytest.raises(ValueError, match="attention_mask"):
        logits(model, **inputs)


def test_an_earlier_turn_may_be_hidden(model: Any) -> None:
    """Its header has columns behind it, which have a header of their own."""
    one = tiny.prompt("llama", 1, 9)["input_ids"]
    ids = torch.cat([one, tiny.prompt("llama", 2, 6)["input_ids"]], dim=1)
    mask = torch.ones_like(ids)
    mask[:, : one.shape[1]] = 0
    assert bool(
        (moved(model, programs(model)["header"], {"input_ids": ids, "attention_mask": mask}) > 0.1).all()
    )
