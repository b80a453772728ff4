"""A steered model answers only with the weights that were loaded and checked, however they were changed since."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import tiny
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from exporter.targets.checkpoint import compile_checkpoint
from steer_modules.weights import SAMPLE, Sample

PROMPT = tiny.prompt("llama", 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("weights")
    model = tiny.build("llama")
    model.save_pretrained(home / "base")
    program = tiny.program(model, [tiny.fixed_gate(True)], [tiny.turn(2), tiny.turn(3, seed=9)])
    return compile_checkpoint(home / "base", program, home / "steered")


@pytest.fixture
def model(folder):
    return load(folder)


def load(folder: Path, **options):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **options)


def answers(model) -> torch.Tensor:
    with torch.no_grad():
        return model(**PROMPT).logits


def projection(model) -> nn.Linear:
    return model.model.layers[1].mlp.up_proj


def add_to_data(model) -> None:
    """As peft's merge does."""
    projection(model).weight.data += 0.01


def set_data(model) -> None:
    projection(model).weight.data = projection(model).weight.data * 1.01


def one_element(model) -> None:
    projection(model).weight.data[3, 5] += 1.0


def one_column(model) -> None:
    model.lm_head.weight.data[:, 7] = 0


def assigned(model) -> None:
    state = {name: tensor * 1.01 for name, tensor in model.state_dict().items() if "steering." not in name}
    model.load_state_dict(state, assign=True, strict=False)


def swapped(model) -> None:
    other = nn.Linear(projection(model).in_features, projection(model).out_features, bias=False)
    model.model.layers[1].mlp.up_proj = other


def set_parameter(model) -> None:
    projection(model).weight = nn.Parameter(projection(model).weight.detach() * 1.01)


def under_inference_mode(model) -> None:
    with torch.inference_mode():
        projection(model).weight.data.mul_(1.01)


def with_a_bias(model) -> None:
    projection(model).bias = nn.Parameter(torch.zeros(projection(model).out_features))


def renamed(model) -> None:
    """As a wrapper does that holds the module under another name."""
    wrapper = nn.Module()
    wrapper.base_layer = projection(model)
    wrapper.forward = wrapper.base_layer.forward
    model.model.layers[1].mlp.up_proj = wrapper


def saved_buffer(model) -> None:
    projection(model).register_buffer("shift", torch.ones(projection(model).out_features))


CHANGES = [
    add_to_data,
    set_data,
    one_element,
    one_column,
    assigned,
    swapped,
    set_parameter,
    under_inference_mode,
    with_a_bias,
    renamed,
    saved_buffer,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("asked_before", [False, True])
def test_whatever_changes_a_weight_it_does_not_answer(model, change, asked_before, tmp_path):
    if asked_before:
        answers(model)
    change(model)
    with pytest.raises(RuntimeError, match=r"accept_changed_base\(\)"):
        answers(model)
    with pytest.raises(RuntimeError, match=r"accept_changed_base\(\)"):
        model.generate(**PROMPT, max_new_tokens=2)


@pytest.mark.parametrize("change", [add_to_data, assigned, set_parameter], ids=lambda change: change.__name__)
def test_what_is_saved_of_changed_weights_loads_on_purpose_alone(model, change, tmp_path):
    change(model)
    model.save_pretrained(tmp_path / "out")
    with pytest.raises(RuntimeError, match="allow_changed_base=True"):
        load(tmp_path / "out")


def test_the_tensor_is_named(model):
    add_to_data(model)
    with pytest.raises(RuntimeError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        answers(model)


@pytest.mark.parametrize("change", CHANGES[:2], ids=lambda change: change.__name__)
def test_a_compiled_model_sees_it_too(model, change):
    model.forward = torch.compile(model.forward, backend="eager")
    answers(model)
    change(model)
    with pytest.raises(RuntimeError, match=r"accept_changed_base\(\)"):
        answers(model)


@pytest.mark.parametrize("asked_before", [False, True])
def test_casts_and_copies_are_no_change(model, asked_before, folder, tmp_path):
    def kept(one):
        answers(one)
        return one

    before = answers(model) if asked_before else answers(load(folder))
    kept(copy.deepcopy(model))
    kept(kept(copy.deepcopy(model).half()).float())
    kept(copy.deepcopy(model).bfloat16().float())
    kept(copy.deepcopy(model).to(torch.float64))
    kept(copy.deepcopy(model).to(memory_format=torch.channels_last))
    kept(copy.deepcopy(model).requires_grad_(False))
    again = copy.deepcopy(model)
    again.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(answers(again), before)
    kept(copy.deepcopy(model).bfloat16()).save_pretrained(tmp_path / "half")
    assert load(tmp_path / "half").dtype == torch.bfloat16


def test_a_change_after_a_cast_is_one(model):
    answers(model.half())
    projection(model).weight.data[0] += 0.01
    with pytest.raises(RuntimeError, match=r"accept_changed_base\(\)"):
        answers(model)


def test_altered_steering_tensors_do_not_answer(model):
    answers(model)
    for buffer in model.steering.buffers():
        buffer.data *= 1.01
    with pytest.raises(ValueError, match="sha256"):
        answers(model)


def test_steering_tensors_are_held_after_changed_weights_were_accepted(model):
    model.__dict__["_changed_base"] = True
    add_to_data(model)
    answers(model)
    for buffer in model.steering.buffers():
        buffer.data *= 1.01
    with pytest.raises(ValueError, match="sha256"):
        answers(model)


@given(
    rows=st.integers(1, 400),
    width=st.integers(1, 400),
    at=st.floats(0, 1, exclude_max=True),
    turned=st.booleans(),
)
def test_a_row_or_a_column_is_seen(rows, width, at, turned):
    """Each column of a matrix is compared, and each row where there are no more than SAMPLE of them."""
    module = nn.Module()
    values = torch.zeros(width, rows).t() if turned else torch.zeros(rows, width)
    module.weight = nn.Parameter(values)
    before = Sample.of(module)
    assert before.changed(Sample.of(module)) is None
    assert sum(bits.numel() for bits in before.bits.values()) <= 8 * SAMPLE
    for line in (module.weight.data[int(at * rows)], module.weight.data[:, int(at * width)]):
        line.add_(1)
        assert before.changed(Sample.of(module)) == "weight"
        line.sub_(1)


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.bool, torch.complex64]
)
def test_any_type_is_compared(dtype):
    module = nn.Module()
    module.register_buffer("table", torch.ones(3, 4).to(dtype))
    before = Sample.of(module)
    assert before.changed(Sample.of(module)) is None
    module.table.view(torch.uint8).zero_()
    assert before.changed(Sample.of(module)) == "table"
