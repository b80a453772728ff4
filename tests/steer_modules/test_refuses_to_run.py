"""Whatever cannot be judged, was lost or was altered raises before the first word."""

import pytest
import torch
from tiny import logits
from transformers import DynamicCache

from steer_modules.attach import attach, steered
from steer_modules.checks import ProgramError


def raises_without_steering(bed):
    model, fires, _, _ = bed
    foreign = DynamicCache(config=model.config)
    logits(model, **fires, past_key_values=foreign)
    one = torch.tensor([[5]])
    return {
        "the inner model": (RuntimeError, "Call the model itself", lambda m: m.model(**fires)),
        "a foreign cache": (
            ValueError,
            "another model filled part of it",
            lambda m: m(input_ids=one, past_key_values=foreign),
        ),
        "a cache of another kind": (
            TypeError,
            "DynamicCache or StaticCache",
            lambda m: m(input_ids=one, past_key_values=[(torch.zeros(1), torch.zeros(1))]),
        ),
        "a past that no cache holds": (
            ValueError,
            "earlier columns are unknown; pass the cache",
            lambda m: m(input_ids=one, position_ids=torch.tensor([[9]])),
        ),
        "positions that leap": (
            ValueError,
            "jump within a row",
            lambda m: m(
                input_ids=fires["input_ids"], position_ids=torch.tensor([[0, 1, 2, 3, 7, 8, 9, 10, 11]])
            ),
        ),
        "packed sequences in a cache": (
            ValueError,
            "use_cache=False",
            lambda m: m(
                input_ids=fires["input_ids"],
                position_ids=torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]]),
                use_cache=True,
            ),
        ),
        "a mask that shows part of a sequence": (
            ValueError,
            "not causal attention",
            lambda m: m(input_ids=fires["input_ids"], attention_mask=windowed(9, 3)),
        ),
        "torch.jit.trace": (
            RuntimeError,
            "export onnx",
            lambda m: torch.jit.trace(m, (fires["input_ids"],), strict=False),
        ),
        "torch.export": (Exception, "export onnx", lambda m: torch.export.export(m, (fires["input_ids"],))),
        "an inner model saved alone": (
            RuntimeError,
            "no steering of its own",
            lambda m: m.model.save_pretrained("nowhere"),
        ),
        "an adapter beside the steering": (
            RuntimeError,
            "allow_changed_base=True",
            lambda m: m.load_adapter("nowhere"),
        ),
        "continuous batching": (NotImplementedError, "use generate", lambda m: m.generate_batch([[1, 2]])),
        "packed sequences": (
            ValueError,
            "cu_seq_lens_q",
            lambda m: m(**fires, cu_seq_lens_q=torch.tensor([0, 4, 9])),
        ),
        "a gate of another shape": (
            ValueError,
            r"expected \[1, 1\]",
            lambda m: m(**fires, steering_gate=torch.ones(1)),
        ),
        "a gate of another value": (
            ValueError,
            r"-1 \(decide\)",
            lambda m: m(**fires, steering_gate=torch.tensor([[float("nan")]])),
        ),
        "a short mask": (
            ValueError,
            r"shape \[1, 3\]",
            lambda m: m(input_ids=fires["input_ids"], attention_mask=torch.ones(1, 3)),
        ),
    }


def windowed(length, width):
    """A 4-D mask in which each column sees itself and the ``width - 1`` before it."""
    columns = torch.arange(length)
    ahead = columns[:, None] - columns
    return ((ahead >= 0) & (ahead < width))[None, None]


NAMES = [
    "the inner model",
    "a foreign cache",
    "a cache of another kind",
    "a past that no cache holds",
    "positions that leap",
    "packed sequences in a cache",
    "a mask that shows part of a sequence",
    "torch.jit.trace",
    "torch.export",
    "an inner model saved alone",
    "an adapter beside the steering",
    "continuous batching",
    "packed sequences",
    "a gate of another shape",
    "a gate of another value",
    "a short mask",
]


def test_every_refusal_is_tried(bed):
    assert set(raises_without_steering(bed)) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_judged_raises(bed, name):
    model, _, _, program = bed
    kind, message, call = raises_without_steering(bed)[name]
    with steered(model, program), torch.no_grad(), pytest.raises(kind, match=message):
        call(model)


def test_lost_hooks_raise(bed):
    model, fires, _, program = bed
    with steered(model, program), torch.no_grad():
        model._steering_handles[-1].remove()
        with pytest.raises(RuntimeError, match="without steering"):
            model(**fires)


def test_altered_steering_raises_before_the_first_word(bed):
    model, fires, _, program = bed
    with steered(model, program), torch.no_grad():
        model.steering.layers["2"].prototypes.add_(1e-3)
        with pytest.raises(ProgramError, match="sha256"):
            model(**fires)


def test_a_program_for_another_size_is_refused(bed):
    model, _, _, program = bed
    section = {**program.section(), "num_layers": 9}
    other = type(program)(**{**program.__dict__, "num_layers": section["num_layers"]})
    with pytest.raises(ProgramError, match=r"num_layers is 9, .* 4"):
        attach(model, other)
    assert "steering" not in model._modules


def test_other_tensors_loaded_later_raise(bed):
    model, fires, _, program = bed
    with steered(model, program), torch.no_grad():
        model(**fires)
        tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(tensors)
        model(**fires)
        tensors["steering.layers.2.prototypes"] += 1e-3
        model.load_state_dict(tensors)
        with pytest.raises(ProgramError, match="sha256"):
            model(**fires)
