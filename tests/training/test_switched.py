"""Neurons of the last block made into switches: off on what is kept, and what the teacher says where its gate is on."""

from __future__ import annotations

import planted
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from exporter.training.distil import lessons, measured
from exporter.training.factors import edit_of
from exporter.training.lora import edited
from exporter.training.reply_columns import Columns, last_block, reply_columns
from exporter.training.switched import groups_of, switched, taken, unpredicted
from exporter.training.switches import whitening
from steer_modules.attach import steered

SPLITS = ("fit", "calibrate", "held")


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    """Context, and lessons of what the steered model says to each person's question, by split."""
    host = planted.host()
    context = planted.context(host, tmp_path_factory.mktemp("switched"))
    program = planted.refusing(context, planted.FORGET).with_fingerprint(f"sha256:{'0' * 64}")
    found = {}
    for split in SPLITS:
        prompts = [context.chat.prompt(row) for row in planted.rows(split)]
        with steered(host.model, program):
            said = host.generate(prompts, max_new_tokens=6)
        sequences = [
            context.chat.continue_with(one, reply.tokens) for one, reply in zip(prompts, said, strict=True)
        ]
        fired = [max(one.gates.values()) > 0 for one in said]
        found[split] = lessons(host, program, sequences, fired, batch_size=4)
    return context, found


@pytest.fixture(scope="module")
def columns(bed) -> Columns:
    context, found = bed
    columns = reply_columns(context.host, found["fit"] + found["calibrate"], batch_size=4, bfloat16=False)
    assert columns is not None
    return columns


@pytest.fixture(scope="module")
def factors(bed, columns):
    found = switched(bed[0].host, columns, rank=16, seed=0, bfloat16=False)
    assert found is not None
    return found


def test_the_pupil_says_what_the_steered_model_says_and_keeps_the_rest(bed, factors) -> None:
    context, found = bed
    before = measured(context.host, found["held"], batch_size=4)
    assert before.kept_same == 1.0
    assert before.forget_same == 0.0  # or nothing would be learned
    edit = edit_of(context, "distil", factors).with_fingerprint(f"sha256:{'0' * 64}")
    with edited(context.host.model, edit):
        after = measured(context.host, found["held"], batch_size=4)
    assert after.same == 1.0
    assert edit.config["r"] <= 16
    assert not edit.config["use_dora"]
    assert edit.config["bias"] == "none"


def test_states_that_are_kept_do_not_move(bed, columns, factors) -> None:
    host = bed[0].host
    block = last_block(host.model)
    assert block is not None
    kept, fired = columns.read[~columns.fired], columns.read[columns.fired]
    moved = [_changed(block, factors, one) - _told(block, one) for one in (kept, fired)]
    assert moved[0].abs().max() < 1e-3 * moved[1].abs().max()


def test_the_adapter_is_the_neurons_that_were_solved(columns, factors, bed) -> None:
    block = last_block(bed[0].host.model)
    assert block is not None
    gate, up, down = (factors[name] for name in block.names)
    places = gate.b.T.argmax(-1)
    rows = (block.gate.weight.detach() + gate.delta)[places]
    constant = (block.up.weight.detach() + up.delta)[places]
    out = (block.down.weight.detach() + down.delta)[:, places]
    others = torch.ones(block.down.in_features, dtype=torch.bool)
    others[places] = False
    read = columns.read
    active = (nn.functional.silu(read @ block.gate.weight.T) * (read @ block.up.weight.T)).detach()
    stand_in = taken(columns, places).stand_in
    rest = (active[:, others] + 0) @ block.down.weight.detach()[:, others].T
    told = rest + (active @ stand_in.T) @ block.down.weight.detach()[:, places].T
    told = told + (nn.functional.silu(read @ rows.T) * (read @ constant.T)) @ out.T
    torch.testing.assert_close(_changed(block, factors, read), told, rtol=1e-3, atol=1e-3)


def _told(block, read):
    with torch.no_grad():
        return (
            nn.functional.silu(read @ block.gate.weight.T) * (read @ block.up.weight.T)
        ) @ block.down.weight.T


def _changed(block, factors, read):
    gate, up, down = (
        layer.weight.detach() + factors[name].delta
        for layer, name in zip((block.gate, block.up, block.down), block.names, strict=True)
    )
    return (nn.functional.silu(read @ gate.T) * (read @ up.T)) @ down.T


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_base_in_sixteen_bits_has_switches_too(bed, columns, dtype) -> None:
    """Without autocast: its own numbers are of that type already."""
    half = planted.host()
    half.model.to(dtype)
    factors = switched(half, columns, rank=16, seed=0, bfloat16=False)
    edit = edit_of(bed[0], "distil", factors).with_fingerprint(f"sha256:{'0' * 64}")
    with edited(half.model, edit):
        assert measured(half, bed[1]["held"], batch_size=4).same == 1.0
    again = reply_columns(half, bed[1]["fit"], batch_size=4, bfloat16=False)
    assert again.state.dtype == torch.float32


def test_tokens_beyond_the_neurons_share_one(columns) -> None:
    alone = groups_of(columns, 50)
    assert all(len(one) == 1 for one in alone)
    for most in range(1, len(alone)):
        some = groups_of(columns, most)
        assert len(some) == most
        assert sorted(torch.cat(some).tolist()) == sorted(torch.cat(alone).tolist())


def test_nothing_to_tell_apart_has_no_switch(bed, columns) -> None:
    kept = Columns(*(one[~columns.fired] for one in columns))
    assert switched(bed[0].host, kept, rank=16, seed=0, bfloat16=False) is None
    assert switched(bed[0].host, columns, rank=1, seed=0, bfloat16=False) is None


def test_a_block_with_biases_is_of_another_kind() -> None:
    host = planted.host()
    mlp = host.model.model.layers[-1].mlp
    mlp.gate_proj = nn.Linear(mlp.gate_proj.in_features, mlp.gate_proj.out_features)
    assert last_block(host.model) is None
    assert reply_columns(host, [], batch_size=4, bfloat16=False) is None


@given(st.integers(1, 40), st.integers(2, 12), st.integers(0, 2**16))
def test_whitened_states_have_less_energy_than_one_in_every_direction(count, width, seed) -> None:
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    white = rows @ whitening(rows, 0.1)
    assert torch.isfinite(white).all()  # also of fewer rows than directions
    assert torch.linalg.eigvalsh(white.T @ white / count).max() <= 1 + 1e-4


def test_a_neuron_that_others_tell_is_predicted() -> None:
    active = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    active[:, 3] = active[:, 0] - active[:, 1]
    left = unpredicted(active)
    assert left[3] < 0.02
    assert left[2] > 0.9
