"""A steered model answers only with the weights that were loaded and checked, however they were changed since."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import tiny
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from steer_modules.fingerprint import remember
from steer_modules.weights import SAMPLE, Sample

PROMPT = tiny.prompt("llama", 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.compiled_llama(tmp_path_factory.mktemp("weights"))


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


def unsaved_buffer(model) -> None:
    model.model.rotary_emb.inv_freq.mul_(0.5)


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
    unsaved_buffer,
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


@pytest.mark.parametrize("by_position", [True, False])
def test_weights_that_are_handed_in_are_not_those_of_the_model(model, by_position, tmp_path):
    state = {name: t if "steering." in name else t * 1.01 for name, t in model.state_dict().items()}
    if by_position:
        model.save_pretrained(tmp_path / "out", True, state)
    else:
        model.save_pretrained(tmp_path / "out", state_dict=state)
    with pytest.raises(RuntimeError, match="allow_changed_base=True"):
        load(tmp_path / "out")


def test_all_arguments_of_saving_may_be_given_by_position(model, tmp_path):
    model.save_pretrained(tmp_path / "out", True, None, False, "100KB")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    assert torch.equal(answers(load(tmp_path / "out")), answers(model))


def test_a_config_with_another_section_is_not_saved(model, tmp_path):
    other = copy.deepcopy(model.config.steering)
    other["gates"][0]["threshold"] = 1e9
    model.config.steering = other
    with pytest.raises(ValueError, match=r"config\.steering"):
        model.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("asked_before", [False, True])
def test_a_section_that_was_altered_does_not_answer(model, asked_before, tmp_path):
    if asked_before:
        answers(model)
    model.config.steering["gates"][0]["threshold"] = 1e9
    with pytest.raises(ValueError, match="sha256"):
        answers(model)
    with pytest.raises(ValueError, match="sha256"):
        model.save_pretrained(tmp_path / "out")


def test_what_steers_is_read_from_the_section_alone(model):
    gate, layer = next(iter(model.steering.gates.values())), next(iter(model.steering.layers.values()))
    for part, name in ((gate, "name"), (gate, "pool"), (gate, "layer"), (layer, "options"), (layer, "op")):
        with pytest.raises(AttributeError, match="setter"):
            setattr(part, name, None)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bits_are_other_weights(model, dtype):
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype).float()
    with pytest.raises(RuntimeError, match=r"accept_changed_base\(\)"):
        answers(model)


def test_a_model_that_was_trained_does_not_answer_in_training_mode_either(model):
    model.train()
    model(**PROMPT).logits.sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    model(**PROMPT)  # the next step
    with pytest.raises(RuntimeError, match=r"accept_changed_base\(\)"):
        answers(model)
    with pytest.raises(RuntimeError, match=r"accept_changed_base\(\)"):
        model.generate(**PROMPT, max_new_tokens=2)


def test_what_was_accepted_is_held_to_in_turn(model, monkeypatch, tmp_path):
    code = sys.modules[model.accept_changed_base.__module__]  # what travelled with the checkpoint
    monkeypatch.setattr(code, "check_canary", answers)
    add_to_data(model)
    model.accept_changed_base()
    answers(model)
    add_to_data(model)
    with pytest.raises(RuntimeError, match=r"accept_changed_base\(\)"):
        answers(model)
    model.accept_changed_base()
    answers(model)
    model.save_pretrained(tmp_path / "out")
    with pytest.raises(RuntimeError, match="allow_changed_base=True"):
        load(tmp_path / "out")


def test_steering_put_in_place_of_the_loaded_one_does_not_pass_for_it(model):
    model.steering = copy.deepcopy(model.steering)
    with pytest.raises(RuntimeError, match=r"model\.steering"):
        answers(model)


def test_a_config_with_other_shapes_is_not_saved(model, tmp_path):
    model.config.steering_shapes = {}
    with pytest.raises(ValueError, match="steering_shapes"):
        model.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def emptied(folder: Path):
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    return transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=True).eval()


def test_a_model_that_was_filled_is_held_to_the_weights_of_its_steering(model, folder):
    filled = emptied(folder)
    filled.load_state_dict(model.state_dict())
    assert torch.equal(answers(filled), answers(model))
    add_to_data(filled)
    with pytest.raises(RuntimeError, match=r"accept_changed_base\(\)"):
        answers(filled)


@pytest.mark.parametrize("change", [add_to_data, one_column], ids=lambda change: change.__name__)
def test_a_model_that_was_filled_with_other_weights_does_not_answer(model, folder, change):
    change(model)
    filled = emptied(folder)
    filled.load_state_dict(model.state_dict())
    with pytest.raises(RuntimeError, match=r"from_pretrained.*accept_changed_base\(\)"):
        answers(filled)


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
    kept(copy.deepcopy(model).half().bfloat16().float())
    kept(copy.deepcopy(model).bfloat16().half())
    kept(copy.deepcopy(model).double().half().double())
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_steering_tensors_that_lost_digits_do_not_answer(model, dtype):
    answers(model)
    for buffer in model.steering.buffers():
        buffer.data = buffer.data.to(dtype).float()
    with pytest.raises(ValueError, match="sha256"):
        answers(model)


def test_steering_tensors_are_held_after_changed_weights_were_accepted(model):
    add_to_data(model)
    remember(model)  # as accepting does
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
    "dtype",
    [torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.bool, torch.complex64, torch.complex128],
)
def test_any_type_is_compared(dtype):
    module = nn.Module()
    module.register_buffer("table", torch.ones(3, 4).to(dtype))
    before = Sample.of(module)
    assert before.changed(Sample.of(module)) is None
    module.table.view(torch.uint8).zero_()
    assert before.changed(Sample.of(module)) == "table"


def test_what_is_no_number_is_equal_to_itself():
    module = nn.Linear(3, 2)
    module.weight.data[0, 0] = float("nan")
    before = Sample.of(module)
    assert before.changed(Sample.of(module)) is None
    assert before.changed(Sample.of(module.half())) is None
    module.weight.data[0, 0] = 0
    assert before.changed(Sample.of(module)) == "weight"
