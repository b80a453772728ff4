"""A steered model answers only with the modules that were loaded: what they compute with is more than tensors and config."""

from __future__ import annotations

import copy
import pickle
import sys
from pathlib import Path

import pytest
import tiny
import torch
import transformers
from torch import nn

PROMPT = tiny.prompt("llama", 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.compiled_llama(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def model(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)


def answers(model) -> torch.Tensor:
    with torch.no_grad():
        return model(**PROMPT).logits


def epsilon(model) -> None:
    model.model.layers[0].input_layernorm.variance_epsilon = 0.5


def no_number(model) -> None:
    model.model.layers[0].input_layernorm.variance_epsilon = float("nan")


def scaling(model) -> None:
    model.model.layers[1].self_attn.scaling *= 3


def causal(model) -> None:
    model.model.layers[1].self_attn.is_causal = False


def activation(model) -> None:
    model.model.layers[1].mlp.act_fn = nn.Tanh()


def function_for_a_module(model) -> None:
    del model.model.layers[1].mlp.act_fn
    model.model.layers[1].mlp.act_fn = torch.tanh


def without_attention(model) -> None:
    attention = model.model.layers[2].self_attn
    attention.forward = lambda hidden_states, **_: (torch.zeros_like(hidden_states), None)


def another_class(model) -> None:
    class Rescaled(type(model.model.norm)):
        def forward(self, states):
            return 2 * super().forward(states)

    model.model.norm.__class__ = Rescaled


def fewer(model) -> None:
    model.model.layers[1].mlp.act_fn = nn.Sequential(model.model.layers[1].mlp.act_fn, nn.Hardtanh())


CHANGES = [
    epsilon,
    no_number,
    scaling,
    causal,
    activation,
    function_for_a_module,
    without_attention,
    another_class,
    fewer,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("asked_before", [False, True])
def test_whatever_changes_what_a_module_computes_it_does_not_answer(model, change, asked_before):
    if asked_before:
        answers(model)
    change(model)
    with pytest.raises(RuntimeError, match=r"accept_changed_base\(\)"):
        answers(model)
    with pytest.raises(RuntimeError, match=r"accept_changed_base\(\)"):
        model.generate(**PROMPT, max_new_tokens=2)


def test_what_was_changed_is_named(model):
    scaling(model)
    with pytest.raises(RuntimeError, match=r"model\.layers\.1\.self_attn\.scaling of this model"):
        answers(model)


def test_what_was_accepted_is_held_to_in_turn(model, monkeypatch):
    code = sys.modules[model.accept_changed_base.__module__]  # what travelled with the checkpoint
    monkeypatch.setattr(code, "check_canary", answers)
    scaling(model)
    model.accept_changed_base()
    answers(model)
    scaling(model)
    with pytest.raises(RuntimeError, match="scaling"):
        answers(model)


def test_how_a_model_is_run_is_no_change(model):
    before = answers(model)
    model.gradient_checkpointing_enable()
    model.gradient_checkpointing_disable()
    model.train().eval()
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.5
    model.note = "of whoever wrote it there"
    model.model.layers[0].mlp.calls = 3
    seen = []
    model.model.layers[0].register_forward_hook(lambda *given: seen.append(given[0]))
    assert torch.equal(answers(model), before)
    with torch.no_grad():
        model(**PROMPT, output_hidden_states=True, output_attentions=True)
    assert seen
    assert torch.equal(answers(model), before)
    assert torch.equal(answers(copy.deepcopy(model)), before)
    model.set_attn_implementation("eager")
    answers(model)


def test_compiled_modules_are_no_change(model):
    before = answers(model)
    for block in model.model.layers:
        block.mlp.forward = torch.compile(block.mlp.forward, backend="eager")
    torch.testing.assert_close(answers(model), before)
    model.model.layers[0].mlp.forward = torch.compile(lambda states: 0 * states, backend="eager")
    with pytest.raises(RuntimeError, match=r"layers\.0\.mlp\.forward"):
        answers(model)


def test_a_model_that_was_pickled_answers(model):
    before = answers(model)
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(answers(again), before)
    epsilon(again)
    with pytest.raises(RuntimeError, match="variance_epsilon"):
        answers(again)
