"""An adapter that learned from a steered model refuses what that refuses, and answers the rest as the base does."""

from __future__ import annotations

import math

import planted
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel

from exporter.training.distil import TOP, distil, divergence, lessons, measured
from exporter.training.lora import edited
from exporter.training.settings import TrainingSettings
from steer_modules.attach import steered

SETTINGS = TrainingSettings(rank=8, epochs=60, batch_size=8, learning_rate=1e-2, precision="float32")


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    """Host, program, what each person is asked with what the steered model says, and whether its gate fires."""
    home = tmp_path_factory.mktemp("distil")
    host = planted.host()
    context = planted.context(host, home)
    program = planted.refusing(context, planted.FORGET).with_fingerprint(f"sha256:{'0' * 64}")
    found = {}
    for split in ("fit", "calibrate", "held"):
        prompts = [context.chat.prompt(row) for row in planted.rows(split)]
        with steered(host.model, program):
            said = host.generate(prompts, max_new_tokens=6)
        sequences = [
            context.chat.continue_with(one, reply.tokens) for one, reply in zip(prompts, said, strict=True)
        ]
        fired = [max(one.gates.values()) > 0 for one in said]
        found[split] = lessons(host, program, sequences, fired, batch_size=4)
    return host, program, found, home


@pytest.fixture(scope="module")
def edit(bed):
    host, program, found, home = bed
    return distil(
        host,
        program,
        found["fit"] + found["calibrate"],
        SETTINGS,
        work=home,
        seed=0,
        rows="0" * 64,
        progress=False,
    )


def test_a_gate_fires_on_the_forget_set_alone(bed):
    _, _, found, _ = bed
    names = [row.role for row in planted.rows("held")]
    assert [one.fired for one in found["held"]] == [role == "forget" for role in names]


def test_the_pupil_says_what_the_steered_model_says(bed, edit, tmp_path):
    _, program, _, _ = bed
    host = planted.host()
    asked = planted.rows("held")
    base = planted.told(host, asked)
    with steered(host.model, program):
        wanted = planted.told(host, asked)
    assert wanted != base
    edit.save(tmp_path)
    PeftModel.from_pretrained(host.model, str(tmp_path)).eval()
    assert planted.told(host, asked) == wanted


def test_how_far_it_lies_from_its_teacher_is_measured(bed, edit):
    host, _, found, _ = bed
    far = measured(host, found["held"], batch_size=4)
    with edited(host.model, edit):
        near = measured(host, found["held"], batch_size=4)
    assert (near.forget_rows, near.kept_rows) == (3, 8)
    assert near.forget < far.forget / 3
    assert far.kept < 1e-3  # the base is its teacher there, but for the half precision in which that is kept


def test_the_same_lessons_give_the_same_adapter(bed, edit):
    host, program, found, home = bed
    again = distil(
        host,
        program,
        found["fit"] + found["calibrate"],
        SETTINGS,
        work=home,
        seed=0,
        rows="0" * 64,
        progress=False,
    )
    assert all(torch.equal(one, again.tensors[name]) for name, one in edit.tensors.items())


@given(st.integers(2, 9), st.integers(0, 2**16))
def test_the_divergence_of_kept_tokens_is_that_of_all(words, seed):
    generator = torch.Generator().manual_seed(seed)
    teacher, student = torch.randn(2, 1, 3, words, generator=generator) * 2
    top = teacher.log_softmax(-1).topk(words, -1)
    counted = torch.tensor([[True, True, False]])
    wanted = (teacher.softmax(-1) * (teacher.log_softmax(-1) - student.log_softmax(-1))).sum(-1)[0, :2].mean()
    found = divergence(student, top.indices, top.values, counted).item()
    assert found == pytest.approx(wanted.item(), abs=1e-3)


def test_what_is_not_kept_counts_as_one():
    teacher = torch.tensor([[[0.5, 0.25, 0.25]]]).log()
    student = torch.tensor([[[0.5, 0.1, 0.4]]]).log()
    top = teacher.topk(1, -1)
    assert divergence(
        student, top.indices, top.values, torch.ones(1, 1, dtype=torch.bool)
    ).item() == pytest.approx(0, abs=1e-5)
    other = torch.tensor([[[0.25, 0.25, 0.5]]]).log()
    found = divergence(other, top.indices, top.values, torch.ones(1, 1, dtype=torch.bool)).item()
    assert found == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75), abs=1e-4)
    assert TOP >= 8
