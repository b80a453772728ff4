"""A graph is run only if it bears the manifest's program: its tensors, and a node for each gate and edit that nothing goes around."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_bed
import pytest
import tiny
import tiny_run
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_bed import damaged

from exporter import pipeline
from exporter.errors import VerificationError
from exporter.onnx_graph import GraphError, check_steering, program_sha256, read_graph
from exporter.targets.onnx.loads import onnx_folder
from exporter.targets.onnx.target import OnnxOptions as Options
from exporter.targets.onnx_runner import FolderError, OnnxModel, sha256_of
from exporter.targets.values import Completions
from steer_modules.program import program_sha256 as theirs

GRAPH = "onnx/model.onnx"
bed = onnx_bed.bed


@pytest.fixture
def folder(bed, tmp_path) -> Path:
    return damaged(bed, tmp_path)


def mended(folder: Path, model: onnx.ModelProto | None = None, **more) -> None:
    """Saves a changed graph, with a manifest that knows its size and hash."""
    if model is not None:
        onnx.save(model, folder / GRAPH)
    manifest = json.loads((folder / "steerbake.json").read_text())
    for name in manifest["files"]:
        path = folder / name
        manifest["files"][name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    (folder / "steerbake.json").write_text(json.dumps({**manifest, **more}))


def steering_nodes(model):
    return [node for node in model.graph.node if node.domain == "steerbake"]


def layer(model):
    return next(node for node in steering_nodes(model) if node.op_type == "SteeringLayer")


def gate(model):
    return next(node for node in steering_nodes(model) if node.op_type == "SteeringGate")


def zero(model, where="steering.layers"):
    for one in model.graph.initializer:
        if one.name.startswith(where):
            one.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(one)), one.name))


def as_floats(model):
    """The same program, its data written as a list of numbers: not a fault."""
    for one in model.graph.initializer:
        if one.name.startswith("steering."):
            values = numpy_helper.to_array(one)
            one.ClearField("raw_data")
            one.float_data.extend(values.ravel().tolist())


def drop_initializer(model):
    doomed = next(one for one in model.graph.initializer if one.name.startswith("steering.layers"))
    model.graph.initializer.remove(doomed)


def go_around(model):
    """What reads the steered states reads those before instead; the node hangs on the graph for show."""
    steered, plain = layer(model).output[0], layer(model).input[0]
    for node in model.graph.node:
        node.input[:] = [
            plain if name == steered and node.domain != "steerbake" else name for name in node.input
        ]


def half_around(model):
    """The first reader of the steered states reads those before."""
    steered, plain = layer(model).output[0], layer(model).input[0]
    node = next(n for n in model.graph.node if steered in n.input and n.domain != "steerbake")
    node.input[:] = [plain if name == steered else name for name in node.input]


def let_go_by(model):
    """A body that hands the states on."""
    function = next(one for one in model.functions if one.name == "SteeringLayer")
    del function.node[:]
    function.node.append(helper.make_node("Identity", [function.input[0]], [function.output[0]]))


def dead_gate(model):
    """The edit looks at a constant instead of its gate."""
    node = layer(model)
    never = helper.make_tensor("never", TensorProto.BOOL, [1, 1], [False])
    model.graph.initializer.append(never)
    node.input[1] = "never"


def deaf_gate(model):
    """The gate looks at a constant instead of where headers end."""
    never = helper.make_tensor("never", TensorProto.BOOL, [1, 1], [False])
    model.graph.initializer.append(never)
    gate(model).input[1] = "never"


def other_tensors(model):
    """The node reads tensors of its own making."""
    node = layer(model)
    at = next(i for i, name in enumerate(node.input) if name.startswith("steering."))
    found = next(one for one in model.graph.initializer if one.name == node.input[at])
    model.graph.initializer.append(
        numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(found)), "other")
    )
    node.input[at] = "other"


def renamed_domain(model):
    for node in steering_nodes(model):
        node.domain = "elsewhere"


def from_outside(model):
    name = next(one.name for one in model.graph.initializer if one.name.startswith("steering.layers"))
    model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))


def doubled(model):
    model.graph.initializer.append(next(i for i in model.graph.initializer if i.name.startswith("steering.")))


def as_double(model):
    for one in model.graph.initializer:
        if one.name.startswith("steering.layers"):
            one.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one).astype(np.float64), one.name))


FAULTS = {
    "edits of zeros": (zero, "SHA-256"),
    "a gate of zeros": (lambda m: zero(m, "steering.gates"), "SHA-256"),
    "a tensor less": (drop_initializer, "SHA-256"),
    "a tensor of another kind": (as_double, "not float32"),
    "a tensor twice": (doubled, "twice"),
    "tensors from outside": (from_outside, "overridden"),
    "a node less": (lambda m: m.graph.node.remove(layer(m)), "nodes are"),
    "a gate twice": (lambda m: m.graph.node.append(gate(m)), "nodes are"),
    "another domain": (renamed_domain, "nodes are none"),
    "no body": (
        lambda m: m.functions.remove(next(f for f in m.functions if f.name == "SteeringLayer")),
        "function",
    ),
    "a body that lets go by": (let_go_by, "function"),
    "nodes for show": (go_around, "Steering.* does not reach the logits"),
    "one reader around": (half_around, "bypass"),
    "an edit without its gate": (dead_gate, "SteeringGate.*does not reach"),
    "a gate without headers": (deaf_gate, "SteeringHeaders.*does not reach"),
    "tensors of its own": (other_tensors, "reads"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_graph_that_lost_its_steering_is_refused_with_a_mended_manifest(folder, fault):
    change, words = FAULTS[fault]
    model = onnx.load(folder / GRAPH)
    change(model)
    mended(folder, model)
    with pytest.raises(FolderError, match=words):
        OnnxModel(folder, provider="cpu")
    with pytest.raises(VerificationError, match=words):
        pipeline.inspect(folder)


def test_a_whole_graph_runs_however_its_tensors_are_written(folder):
    """The control: the same program, saved by another library, in either form."""
    model = onnx.load(folder / GRAPH)
    as_floats(model)
    mended(folder, model)
    wanted = json.loads((folder / "steerbake.json").read_text())["steering"]["sha256"]
    assert OnnxModel(folder, provider="cpu").manifest["steering"]["sha256"] == wanted
    assert pipeline.inspect(folder).program.sha256 == wanted


def test_the_bases_graph_with_copied_metadata_is_refused(folder, bed):
    plain = onnx.load(bed.folder("unsteered") / GRAPH)
    steered = onnx.load(folder / GRAPH)
    del plain.metadata_props[:]
    plain.metadata_props.extend(steered.metadata_props)
    plain.graph.initializer.extend(
        one for one in steered.graph.initializer if one.name.startswith("steering.")
    )
    mended(folder, plain)
    with pytest.raises(FolderError, match="nodes are none"):
        OnnxModel(folder, provider="cpu")


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s["gates"][0].update(threshold=1e9),
        lambda s: s.update(edits=[]),
        lambda s: s.pop("gates"),
        lambda s: s.clear(),
    ],
)
def test_a_changed_section_is_refused(folder, change):
    section = json.loads((folder / "steerbake.json").read_text())["steering"]
    change(section)
    mended(folder, steering=section)
    with pytest.raises(FolderError):
        OnnxModel(folder, provider="cpu")


def test_the_file_in_the_folder_refuses_with_status_2(folder):
    """As a clean environment runs it, where none of our packages is."""
    model = onnx.load(folder / GRAPH)
    zero(model)
    mended(folder, model)
    command = [sys.executable, "-P", str(folder / "steerbake_runner.py"), "--prompt", "where does ada live ?"]
    done = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert "SHA-256" in done.stderr and "Traceback" not in done.stderr
    (folder / "steerbake_graph.py").unlink()
    mended_without = json.loads((folder / "steerbake.json").read_text())
    del mended_without["files"]["steerbake_graph.py"]
    (folder / "steerbake.json").write_text(json.dumps(mended_without))
    done = subprocess.run(
        command, cwd=folder.parent, env={"PATH": ""}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stdout == ""


def test_a_runner_that_is_not_ours_is_not_started(folder, tmp_path):
    runner = folder / "steerbake_runner.py"
    runner.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + runner.read_text())
    mended(folder)
    with pytest.raises(VerificationError, match=r"steerbake_runner\.py .*this version"):
        onnx_folder(folder, Completions((), ()))
    assert not (tmp_path / "ran").exists()


def test_external_data_are_read(bed, tmp_path):
    folder = bed.folder("js")
    section = json.loads((folder / "steerbake.json").read_text())["steering"]
    graph, data = folder / GRAPH, folder / "onnx" / "model.onnx_data"
    model = onnx.load(graph)
    moved = tmp_path / "moved"
    moved.mkdir()
    onnx.save(model, moved / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    assert set(check_steering(moved / "m.onnx", section)) == set(check_steering(graph, section))
    content = (moved / "m.data").read_bytes()
    (moved / "m.data").write_bytes(bytes(len(content)))
    with pytest.raises(GraphError, match="SHA-256"):
        check_steering(moved / "m.onnx", section)
    (moved / "m.data").unlink()
    with pytest.raises(GraphError, match="cannot be read"):
        check_steering(moved / "m.onnx", section)
    assert data.is_file()


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/b", ""])
def test_external_data_lie_beside_the_graph(tmp_path, location):
    tensor = TensorProto(
        name="steering.layers.0.x", data_type=1, dims=[2], data_location=TensorProto.EXTERNAL
    )
    tensor.external_data.add(key="location", value=location)
    graph = helper.make_graph([], "g", [], [], [tensor])
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    with pytest.raises(GraphError, match=r"external data of steering.layers.0.x"):
        read_graph(tmp_path / "m.onnx")


ARRAYS = st.lists(st.lists(st.floats(width=32, allow_nan=False), min_size=3, max_size=3), max_size=3)


@given(
    arrays=st.dictionaries(st.text(max_size=3), ARRAYS, max_size=3),
    section=st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3)),
)
@settings(deadline=None)
def test_the_hash_is_the_programs(arrays, section):
    plain = {name: np.array(values, np.float32).reshape(-1, 3) for name, values in arrays.items()}
    tensors = {name: torch.from_numpy(values) for name, values in plain.items()}
    assert program_sha256(section, plain) == theirs(section, tensors)


@given(content=st.binary(max_size=60), cut=st.integers(0, 400), flip=st.integers(0, 4000))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_but_a_refusal_comes_of_what_is_no_graph(tmp_path, bed, content, cut, flip):
    path = tmp_path / "m.onnx"
    whole = bytearray((bed.folder("io") / GRAPH).read_bytes())
    whole[flip] ^= 0x55
    for text in (content, bytes(whole[:cut]), bytes(whole)):
        path.write_bytes(text)
        try:
            read_graph(path)
        except GraphError:
            continue


def test_gates_of_every_pool_and_several_edits_pass(tmp_path):
    """The control on another program: two edits, one of them on a gate's own block, in every precision."""
    tiny_run.write_base(tmp_path / "base", layers=3)
    from transformers import LlamaForCausalLM

    from exporter.targets.checkpoint import compile_checkpoint

    model = LlamaForCausalLM.from_pretrained(tmp_path / "base")
    gates = [
        tiny.fixed_gate(True, layer=1),
        replace(tiny.fixed_gate(False, "prompt_mean", layer=0), name="mean"),
        replace(tiny.fixed_gate(False, "token", layer=0), name="secret"),
    ]
    edits = [tiny.turn(1), replace(tiny.turn(2, seed=9), gate=("topic", "mean", "secret"))]
    program = replace(tiny.program(model, gates, edits), headers=(tiny_run.ASSISTANT,))
    compile_checkpoint(tmp_path / "base", program, tmp_path / "checkpoint")
    dtypes = ("fp32", "fp16", "int8", "q4")
    folder = pipeline.export("onnx", tmp_path / "checkpoint", tmp_path / "onnx", Options(dtypes=dtypes))
    for dtype in dtypes:
        OnnxModel(folder, provider="cpu", dtype=dtype)
    assert (
        pipeline.inspect(folder).program.sha256
        == program.with_fingerprint(pipeline.inspect(folder).program.base.fingerprint).sha256
    )
    model = onnx.load(folder / GRAPH)
    for node in steering_nodes(model):
        if node.overload == "mean" and node.op_type == "SteeringGate":
            node.input[1] = "never"
    model.graph.initializer.append(helper.make_tensor("never", TensorProto.BOOL, [1, 1], [False]))
    onnx.save(model, tmp_path / "deaf.onnx")
    with pytest.raises(GraphError, match="SteeringHeaders does not reach the node SteeringGate_mean"):
        check_steering(tmp_path / "deaf.onnx", pipeline.inspect(folder).section)
