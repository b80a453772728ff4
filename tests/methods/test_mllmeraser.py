"""MLLMEraser as rank-1 edits: u reads what the retain set does not use, r is the planted shift, and W = u r^T is the paper's matrix."""

from __future__ import annotations

from dataclasses import replace

import planted
import planted_steering as steering
import pytest
import torch

from exporter.methods.mllmeraser import MllmEraser, MllmEraserParams, null_space_reader
from steer_modules import ops

D, PARAMS = 32, MllmEraserParams(ratio=0.9)


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


AXES = torch.linalg.qr(noise(0, D, D))[0]
KEPT, MEMORY, ASIDE = AXES[:, :12], AXES[:, 20], AXES[:, 25]
RETAIN = noise(1, 200, 12) @ KEPT.T + 0.01 * noise(2, 200, D)


def forgotten(seed, n=40):
    return noise(seed, n, 12) @ KEPT.T + 2.0 * MEMORY + 0.01 * noise(seed + 1, n, D)


def test_u_is_one_on_the_forgotten_and_zero_on_the_kept():
    u = null_space_reader(forgotten(5), RETAIN, 0.625, 0.01)
    assert float(((forgotten(7) @ u) - 1).abs().max()) < 0.1
    assert float((RETAIN @ u).abs().max()) < 0.05
    assert float(ops.unit(u) @ MEMORY) > 0.99


def test_what_is_like_the_kept_is_not_read():
    """The control: states to forget that have nothing of their own."""
    u = null_space_reader(noise(9, 40, 12) @ KEPT.T + 0.01 * noise(10, 40, D), RETAIN, 0.5, 0.01)
    assert float((noise(11, 40, 12) @ KEPT.T @ u).abs().max()) < 0.05


def test_u_and_r_are_the_papers_matrix():
    """W = P (X^T X + gamma P)^+ X^T 1 r^T with P = Q Q^T is u r^T."""
    forget, r = forgotten(5).double(), noise(4, D).double()
    _, _, rows = torch.linalg.svd(RETAIN.double(), full_matrices=True)
    q = rows[-D // 2 :].T
    p = q @ q.T
    x = forget @ p
    gamma = 0.01 * float(forget.square().sum()) / D
    ones = torch.ones(len(x), 1, dtype=torch.float64)
    w = p @ torch.linalg.pinv(x.T @ x + gamma * p, rtol=1e-10) @ x.T @ ones @ r[None]
    u = null_space_reader(forgotten(5), RETAIN, 0.5, 0.01)
    torch.testing.assert_close(torch.outer(u.double(), r), w, rtol=1e-3, atol=1e-5)


# --- the whole fit, on the planted model ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return planted.context(planted.host(), tmp_path_factory.mktemp("eraser"), PARAMS)


def test_known_before_refused_after_and_the_others_still_answered(context):
    program = MllmEraser().fit(context)
    (edit,) = program.edits
    assert (edit.layer, edit.op, edit.gate, edit.positions) == (2, "affine", None, "all")
    assert (edit.tensors["left"].shape, edit.tensors["right"].shape) == ((64, 1), (1, 64))
    for split in planted.FRAMES:
        asked = planted.rows(split)
        expected = [planted.REFUSAL if row.role == "forget" else row.answer for row in asked]
        assert steering.told(context, program, asked) == expected


def test_r_leads_from_recall_to_erasure(context):
    """At the prompt's end the two differ in whom they are about; what calls for a refusal is on the far side."""
    (edit,) = MllmEraser().fit(context).edits
    r = edit.tensors["left"][:, 0]
    assert float(r @ planted.heard("unknown")) < -0.1
    assert all(float(r @ planted.heard(place)) > 0.01 for place in planted.PLACES)
    assert edit.strength < 0


def test_the_report_has_what_u_reads(context):
    context.records.clear()
    MllmEraser().fit(context)
    (line,) = context.records["readings"]
    assert line["forget_mean"] > 0.9
    assert line["retain_mean_size"] < 0.3


def test_rows_under_the_wrong_roles_leave_the_forgotten_known(context):
    """The control: a fit that is told to forget others."""
    wrong = tuple(steering.with_roles(list(context.fit), forget="retain", retain="forget"))
    program = MllmEraser().fit(replace(context, fit=wrong))
    assert steering.leaking(context, program, planted.rows("held", "forget")) == len(planted.FORGET)


def test_one_edit_a_layer_and_behind_a_gate_nothing_else_is_touched(context):
    params = MllmEraserParams(layers=(3, 1), ratio=0.9, gate=steering.GATE, strengths=(-1.0,))
    program = MllmEraser().fit(replace(context, params=params))
    (gate,) = program.gates
    assert [(edit.layer, edit.gate, edit.positions) for edit in program.edits] == [
        (layer, gate.name, "from_gate") for layer in (1, 3)
    ]
    assert gate.layer <= 1
    asked = planted.rows("held", "forget", "retain")
    assert steering.untouched(context, program, asked) == [row.role == "retain" for row in asked]
