"""Each gate and edit as the body of its node, against the torch code that steers a checkpoint: same states in, same states out."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnxscript import rewriter

from exporter.targets.onnx import graphs
from exporter.targets.onnx.shortcuts import shortcuts
from exporter.targets.onnx.steering_nodes import Body, bodies
from steer_modules.ops import fires, unit
from steer_modules.program import BaseModelRef, Edit, Gate, SteeringProgram
from steer_modules.steering_layer import Steering

D, LAYERS = 16, 4
RANDOM = torch.Generator().manual_seed(5)


def rows(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=RANDOM)


def basis(rank: int = 3) -> torch.Tensor:
    return torch.linalg.qr(rows(D, rank)).Q.contiguous()


def gate(
    pool: str = "prompt_end", score: str = "linear", side: str = "above", **tensors: torch.Tensor
) -> Gate:
    threshold = 0.4 if score == "subspace_ratio" else 0.0
    return Gate("topic", 1, pool, score, threshold, side, tensors)


def line() -> dict[str, torch.Tensor]:
    return {"weight": rows(D), "bias": rows(1)}


GATES = {
    "linear": gate(**line()),
    "linear_unit below": gate(score="linear_unit", side="below", **line()),
    "linear of the mean": gate("prompt_mean", **line()),
    "linear of each token": gate("token", **line()),
    "ratio": gate(score="subspace_ratio", basis=basis()),
    "centred ratio of each token": gate("token", "subspace_ratio", "below", basis=basis(), center=rows(D)),
    "margin": gate(
        score="prototype_margin", forget_prototypes=unit(rows(4, D)), retain_prototypes=unit(rows(5, D))
    ),
    "margin in a metric": gate(
        score="prototype_margin",
        forget_prototypes=unit(rows(4, D)),
        retain_prototypes=unit(rows(5, D)),
        center=rows(D),
        metric=rows(D, D),
    ),
    "margin in a few dimensions": gate(
        score="prototype_margin",
        forget_prototypes=unit(rows(4, 3)),
        retain_prototypes=unit(rows(5, 3)),
        metric=rows(3, D),
    ),
}


def rotation(target: str, angle: str = "fraction", protect: str = "none", **keys: Any) -> Edit:
    tensors: dict[str, torch.Tensor] = {}
    if target == "direction":
        tensors["direction"] = rows(D)
    if target != "direction" or angle == "calibrated":
        tensors["prototypes"] = rows(5, D)
    if target == "keyed":
        tensors |= {"keys": rows(5, D), "key_center": rows(D)}
    if protect != "none":
        tensors["retain_basis"] = basis()
    strength = keys.pop("strength", 1.0)
    return Edit(
        2,
        None,
        "rotate",
        "all",
        strength=strength,
        target=target,
        angle=angle,
        protect=protect,
        tensors=tensors,
        **keys,
    )


EDITS = {
    "nearest": rotation("nearest"),
    "keyed": rotation("keyed"),
    "keyed, exact": rotation("keyed", protect="exact"),
    "direction, half way": rotation("direction", strength=0.5),
    "direction of the state's side": rotation("direction", protect="direction", sign="state"),
    "calibrated": rotation("direction", "calibrated"),
    "calibrated, exact": rotation("direction", "calibrated", "exact", sign="state"),
    "add": Edit(2, None, "add", "all", strength=0.7, tensors={"vector": rows(D)}),
    "add, norm kept": Edit(2, None, "add", "all", keep_norm=True, tensors={"vector": rows(D)}),
    "project": Edit(2, None, "project", "all", tensors={"basis": basis(), "center": rows(D)}),
    "affine": Edit(
        2,
        None,
        "affine",
        "all",
        strength=0.5,
        tensors={"left": rows(D, 2), "right": rows(2, D), "bias": rows(D)},
    ),
}


def adding(gate: Any) -> Edit:
    return Edit(2, gate, "add", "from_gate", tensors={"vector": rows(D)})


def steering(gates: list[Gate], edit: Edit) -> Steering:
    program = SteeringProgram("test", D, LAYERS, BaseModelRef("X", "x"), tuple(gates), (edit,), ((1, 2),))
    shapes = {name: list(tensor.shape) for name, tensor in program.tensors().items()}
    made = Steering(program.signed_section(), shapes)
    made.load_program(program)
    return made


TRACED: dict[object, ort.InferenceSession] = {}
"""The body of a node by what makes it the same as another: as in an exported graph, one trace for all of them."""


def run(made: Steering, wanted: str, **inputs: torch.Tensor) -> np.ndarray:
    """Runs the body of one node on other inputs than it was traced with, and other tensors than some of those it stands for."""
    for body in bodies(made, torch.float32):
        if body.op.startswith(wanted):
            session = TRACED.get(body.same) or TRACED.setdefault(body.same, session_of(body))
            names = [value.name for value in session.get_inputs()]
            tensors = {f"tensors.{key}": value for key, value in body.inputs.get("tensors", {}).items()}
            fed = {name: (inputs | tensors)[name].numpy() for name in names}
            return np.asarray(session.run(None, fed)[0])
    raise AssertionError(f"no body called {wanted}")


def session_of(body: Body) -> ort.InferenceSession:
    model = graphs.traced(body.module, body.inputs, body.axes())
    assert not {"If", "Acos", "Loop"} & {node.op_type for node in model.graph.all_nodes()}
    graph = ir.to_proto(model).SerializeToString()
    return ort.InferenceSession(graph, providers=["CPUExecutionProvider"])


def states() -> torch.Tensor:
    """Three rows of five positions; among them a zero, an infinity and a NaN."""
    found = rows(3, 5, D) * 3
    found[0, 1] = 0.0
    found[1, 2, 3] = torch.inf
    found[2, 4, 0] = torch.nan
    return found


@pytest.mark.parametrize("name", GATES)
def test_gates_decide_as_in_the_checkpoint(name):
    made = steering([GATES[name]], adding("topic"))
    seen = states()
    where = torch.ones(3, 5, dtype=torch.bool)
    where[0, :2] = False
    module: Any = made.gates["topic"]
    wanted = fires(module.score(seen), module.threshold, module.side) | ~seen.isfinite().all(-1)
    assert wanted.any() and not wanted.all()
    latched = (wanted & where).cumsum(1) > 0
    off, decide = torch.zeros(3), torch.full((3,), -1.0)
    found = run(made, "SteeringGate", scored=seen, where=where, before=off, given=decide)
    np.testing.assert_array_equal(found, latched.numpy())
    for before, given, expected in (([1, 0, 0], [-1, -1, -1], [1, 2, 2]), ([1, 0, 0], [0, 1, 0], [0, 1, 0])):
        told = {"before": torch.tensor(before).float(), "given": torch.tensor(given).float()}
        found = run(made, "SteeringGate", scored=seen, where=where, **told)
        for row, kind in enumerate(expected):
            np.testing.assert_array_equal(found[row], latched[row].numpy() if kind == 2 else bool(kind))


def test_what_is_not_finite_fires_where_it_is_scored():
    made = steering([GATES["linear"]], adding("topic"))
    silent = {"weight": torch.zeros(D), "bias": torch.tensor([-1.0])}
    made.gates["topic"].load_state_dict(silent)
    where = torch.ones(3, 5, dtype=torch.bool)
    where[2, 4] = False
    told = {"before": torch.zeros(3), "given": torch.full((3,), -1.0)}
    found = run(made, "SteeringGate", scored=states(), where=where, **told)
    assert found.tolist() == [[False] * 5, [False, False, True, True, True], [False] * 5]


def test_a_mean_runs_over_real_columns_and_from_pass_to_pass():
    made = steering([GATES["linear of the mean"]], adding("topic"))
    seen = states()
    seen[1:] = rows(2, 5, D)
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[0, 0] = mask[1, 2] = mask[2, 4] = False
    seen[1, 2], seen[2, 4] = torch.nan, torch.inf
    wanted = torch.zeros(3, 5, D)
    for row in range(3):
        for column in range(5):
            real = seen[row, : column + 1][mask[row, : column + 1]]
            wanted[row, column] = real.mean(0) if len(real) else 0.0
    count, mean = torch.zeros(3), torch.zeros(3, D)
    for start, stop in ((0, 1), (1, 4), (4, 5)):
        piece = {"states": seen[:, start:stop], "mask": mask[:, start:stop]}
        found = torch.from_numpy(run(made, "SteeringMean", count=count, mean=mean, **piece))
        torch.testing.assert_close(found, wanted[:, start:stop], rtol=1e-5, atol=1e-5)
        count, mean = count + mask[:, start:stop].sum(1), found[:, -1]


@pytest.mark.parametrize("name", EDITS)
def test_edits_are_those_of_the_checkpoint(name):
    made = steering([], EDITS[name])
    seen = states()
    where = torch.ones(3, 5, dtype=torch.bool)
    where[:, 0] = False
    found = run(made, "SteeringLayer", states=seen, where=where)
    module: Any = made.layers["2"]
    wanted = torch.where(where.unsqueeze(-1), module.edit(seen), seen).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found[:, 0], seen[:, 0].numpy())
    finite = np.isfinite(seen.numpy()).all(-1) & where.numpy()
    finite[0, 1] = False
    assert (np.abs(found[finite] - seen.numpy()[finite]).max(-1) > 1e-3).all(), (
        "the control: an edit must change a state"
    )


def test_one_trace_serves_the_bodies_that_compute_the_same_and_no_other():
    """By all that a body is made of but its tensors' values: the kind, the options and the sizes."""
    same = {name: same_of([], edit) for name, edit in EDITS.items()}
    assert len(set(same.values())) == len(EDITS)
    assert same_of([], rotation("nearest")) == same["nearest"]
    assert same_of([], rotation("nearest", strength=0.5)) != same["nearest"]
    wider = replace(EDITS["project"], tensors={**EDITS["project"].tensors, "basis": basis(4)})
    assert same_of([], wider) != same["project"]
    scores = {name: same_of([one], adding("topic"), "SteeringGate_topic") for name, one in GATES.items()}
    assert scores["linear"] == scores["linear of the mean"] == scores["linear of each token"]
    assert len(set(scores.values())) == len(GATES) - 2
    assert (
        same_of([replace(GATES["linear"], threshold=0.1)], adding("topic"), "SteeringGate_topic")
        != scores["linear"]
    )


def same_of(gates: list[Gate], edit: Edit, op: str = "SteeringLayer_2") -> object:
    return next(body.same for body in bodies(steering(gates, edit), torch.float32) if body.op == op)


PATTERNS = """
<ir_version: 10, opset_import: ["": 20]>
patterns (float[2, 8] x) => (float[2, 4] a, float[2, 4] b, float[2, 8] c)
<int64[1] zero = {0}, int64[1] four = {4}, int64[1] eight = {8}, int64[1] last = {1}>
{
    a = Slice(x, zero, four, last)
    b = Slice(x, four, eight, last)
    turned = Transpose <perm = [1, 0]> (x)
    c = Transpose <perm = [1, 0]> (turned)
}
"""


def test_the_shortcuts_of_a_trace_change_nothing_in_its_graph(monkeypatch):
    (body,) = bodies(steering([], EDITS["project"]), torch.float32)
    short = graphs.traced(body.module, body.inputs, body.axes())
    with shortcuts():
        found = matches()
    monkeypatch.setattr(graphs, "shortcuts", nullcontext)
    whole = graphs.traced(body.module, body.inputs, body.axes())
    assert ir.to_proto(short).SerializeToString() == ir.to_proto(whole).SerializeToString()
    assert found == matches()
    assert {("SlicesSplit", "Slice"), ("TransposeTranspose", "Transpose")} <= set(found), "the control"


def matches() -> list[tuple[str | None, str]]:
    """Every rule of the optimiser with the nodes at which it finds its pattern."""
    model = ir.from_proto(onnx.parser.parse_model(PATTERNS))
    pairs = ((rule, node) for rule in rewriter._DEFAULT_REWRITE_RULES for node in model.graph)
    return [
        (rule.name, node.op_type)
        for rule, node in pairs
        if rule._matcher.match(model, model.graph, node, remove_nodes=False)
    ]
