"""Servers that put several requests into one row are told, by all that they ask, that steered classes are not for them."""

from __future__ import annotations

import tiny
import torch

from steer_modules.attach import steered


def accepted(model_class) -> bool:
    """What vLLM 0.32 and SGLang ask of a class before they run it on a backend of their own."""
    return model_class.is_backend_compatible() or model_class._can_set_attn_implementation()


def test_no_server_takes_a_steered_class(bed):
    model, _, _, program = bed
    assert accepted(type(model)), "the control: the stock class is taken"
    assert accepted(type(model.model))
    with steered(model, program):
        assert not accepted(type(model))


def test_the_attention_can_still_be_switched_and_steers_all_the_same(bed):
    _, fires, _, program = bed
    model = tiny.build("llama")
    with steered(model, program), torch.no_grad():
        before = model(**fires)
        other = "eager" if model.config._attn_implementation == "sdpa" else "sdpa"
        model.set_attn_implementation(other)
        assert model.config._attn_implementation == other
        after = model(**fires)
    assert torch.equal(after.steering_gate, before.steering_gate)
    torch.testing.assert_close(after.logits, before.logits, rtol=1e-4, atol=1e-4)
