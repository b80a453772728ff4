"""From a module to an ONNX model with names that runtimes know, and its steering as functions the model holds."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import nn
from transformers.exporters.configs import OnnxConfig
from transformers.exporters.exporter_onnx import OnnxExporter

from exporter.errors import CompileError
from exporter.targets.onnx.shortcuts import shortcuts
from exporter.targets.onnx.single_file import write_graph
from exporter.targets.onnx.steering_nodes import DOMAIN, Body

OPSET = 20
IR_VERSION = 10
"""The first version of the ONNX format whose functions can be overloaded."""


def traced(module: nn.Module, example: dict[str, Any], axes: Mapping[str, Any]) -> ir.Model:
    """The graph of a module.

    Args:
        example: inputs by name; lists and mappings inside become dotted names.
        axes: for each of them, the names of the axes that vary.
    """
    config = OnnxConfig(dynamic=True, dynamic_shapes=_varying(axes), opset_version=OPSET)
    with _quietly(), shortcuts():
        model, _ = OnnxExporter().export_program(_AsItIs(module).eval(), example, config)  # type: ignore[arg-type]
    assert isinstance(model, ir.Model)
    model.ir_version = IR_VERSION
    _forget_traces(model)
    _name_tensors(model)
    for value, names in zip(model.graph.inputs, _leaves(axes), strict=True):
        assert value.shape is not None
        value.shape = ir.Shape([names.get(i, size) for i, size in enumerate(value.shape)])
    return model


class _AsItIs(nn.Module):
    """A module whose example inputs keep their dtypes: the exporter would cast them to that of the first parameter."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.inner = module

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:  # noqa: ARG002 - the base's signature
        return iter(())

    def forward(self, **inputs: object) -> object:
        return self.inner(**inputs)


def add_functions(model: ir.Model, bodies: Iterable[Body]) -> None:
    """Gives the steering nodes of a graph their bodies; those that are the same are traced once.

    Raises:
        CompileError: the graph does not hold exactly one node for each body, so something would not be steered.
    """
    found = [node.op_type for node in model.graph if node.domain == DOMAIN]
    wanted = {body.op: body for body in bodies}
    if sorted(found) != sorted(wanted):
        raise CompileError(f"the traced graph holds the steering nodes {sorted(found)}, not {sorted(wanted)}")
    graphs: dict[object, ir.Graph] = {}
    for op, body in wanted.items():
        name, _, overload = op.partition("_")
        if (same := body.same) not in graphs:
            graphs[same] = traced(body.module, body.inputs, body.axes()).graph
            _inline_initializers(graphs[same])
        graph = graphs[same].clone()
        model.functions[DOMAIN, name, overload] = ir.Function(
            DOMAIN, name, overload, graph=graph, attributes=[]
        )
    for node in model.graph:
        if node.domain == DOMAIN:
            _give_own_tensors(model.graph, node, wanted[node.op_type].tensors())
            node.op_type, _, node.overload = node.op_type.partition("_")
            node.name = f"{node.op_type}.{node.overload}".rstrip(".")
    model.opset_imports[DOMAIN] = 1


def save(model: ir.Model, path: Path, metadata: Mapping[str, str]) -> None:
    """Writes a graph with its metadata, and lets its weights go: the optimiser's rules remember the last graph they saw."""
    path.parent.mkdir(parents=True, exist_ok=True)
    model.metadata_props.update(metadata)
    model.producer_name = "steerbake"
    write_graph(model, path)
    for value in model.graph.initializers.values():
        value.const_value = None


def _varying(axes: Any) -> Any:
    """The same nesting with ``Dim.DYNAMIC`` at every named axis."""
    if isinstance(axes, list):
        return [_varying(one) for one in axes]
    if all(isinstance(key, int) for key in axes):
        return dict.fromkeys(axes, torch.export.Dim.DYNAMIC)
    return {key: _varying(value) for key, value in axes.items()}


def _leaves(axes: Any) -> Iterator[dict[int, str]]:
    if isinstance(axes, list):
        for one in axes:
            yield from _leaves(one)
    elif all(isinstance(key, int) for key in axes):
        yield axes
    else:
        for one in axes.values():
            yield from _leaves(one)


def _give_own_tensors(graph: ir.Graph, node: ir.Node, tensors: Mapping[str, torch.Tensor]) -> None:
    """Has a node read its tensors under their own names: the exporter makes one of several that are equal."""
    first = len(node.inputs) - len(tensors)
    for at, (name, tensor) in enumerate(tensors.items(), first):
        if name not in graph.initializers:
            values = ir.tensor(tensor.detach().cpu().numpy(), name=name)
            graph.register_initializer(
                ir.Value(
                    name=name,
                    shape=ir.Shape(tensor.shape),
                    type=ir.TensorType(values.dtype),
                    const_value=values,
                )
            )
        node.replace_input_with(at, graph.initializers[name])


def _inline_initializers(graph: ir.Graph) -> None:
    """Constants of a function's body become nodes: a function has no initializers."""
    for name, value in list(graph.initializers.items()):
        node = ir.node("Constant", [], attributes={"value": value.const_value})
        node.outputs[0].name = name
        graph.insert_before(graph[0], node)
        value.replace_all_uses_with(node.outputs[0])
        del graph.initializers[name]


def _name_tensors(model: ir.Model) -> None:
    """Weights are called as in the checkpoint, without the names of the modules that were put around the model."""
    for value in list(model.graph.initializers.values()):
        assert value.name is not None
        for around in ("inner.model.", "inner."):
            if value.name.startswith(around):
                value.name = value.name.removeprefix(around)
                break


def _forget_traces(model: ir.Model) -> None:
    """Takes off what the tracer noted on every node: lines of code and paths of this machine."""
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


@contextmanager
def _quietly() -> Iterator[None]:
    """Keeps the notes of the exporters below off the user's screen; errors still raise."""
    names = ("torch.onnx", "torch.export", "transformers", "onnxscript", "onnx_ir")
    before = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
