"""The steering as nodes of a graph: where headers end, running means, gates and edits.

There is one ``steerbake::SteeringHeaders`` for all headers, one ``SteeringMean`` per layer whose running mean a gate reads, one
``SteeringGate`` per gate and one ``SteeringLayer`` per edit. Each node is a function whose body the model itself holds, so no runtime
needs an operator of ours, and a quantiser, which works on the nodes of the graph, leaves the steering in float32. Scores and edits are
exported from the very functions that steer the checkpoint (``steer_modules.ops``). Tensors are inputs of the node, under the names
they have in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from exporter.targets.onnx.carried import Layout, Remembered
from exporter.targets.onnx.headers import HeadersBody, HeaderTable
from steer_modules.ops import EDITS, SCORES, fires, prepare
from steer_modules.steering_layer import Steering, SteeringGate, SteeringLayer

DOMAIN = "steerbake"
HEADERS, MEAN, GATE, LAYER = "SteeringHeaders", "SteeringMean", "SteeringGate", "SteeringLayer"


@dataclass
class GraphCall:
    """What the steering of one traced pass over T columns reads, and what it found out.

    Attributes:
        mask: [B, T] bool, the columns of this pass that are not padding.
        ends: [B, T] bool, columns at which a header ends.
        header: [B, T] float32, the part of a header that the sequence ends in.
        given: [B, G] float32: 1 on from the first column of this pass, 0 held off, -1 decide.
        before: the state at the last column before this pass.
        means: by layer, the running mean [B, T, d] float32.
        on: by gate, [B, T] bool, whether it is on; once on, to the end of the sequence.
    """

    mask: Tensor
    ends: Tensor
    header: Tensor
    given: Tensor
    before: Remembered
    means: dict[int, Tensor]
    on: dict[str, Tensor]


class MeanBody(nn.Module):
    """Body of a SteeringMean: the mean of all real columns of the sequence up to each column.

    Inputs: states [B, T, d]; mask [B, T] bool; count [B] and mean [B, d] float32 of the columns before. Output: [B, T, d] float32.
    """

    def forward(self, states: Tensor, mask: Tensor, count: Tensor, mean: Tensor) -> Tensor:
        count = count.view(-1, 1, 1)
        real = mask.unsqueeze(-1)
        # Nothing of a padding column may come in, not even a NaN times 0; and a mean of no columns is 0.
        sums = torch.where(real, states.float(), 0.0).cumsum(1)
        past = torch.where(count > 0, count * mean.unsqueeze(1), 0.0)
        return (past + sums) / (count + real.float().cumsum(1)).clamp_min(1.0)


class GateBody(nn.Module):
    """Body of a SteeringGate: whether it is on at each column.

    Inputs: what is scored, [B, T, d]; where it is, [B, T] bool; before [B] float32, 1 where it was on; given [B] float32.
    Output: [B, T] bool.
    """

    def __init__(self, gate: SteeringGate) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, scored: Tensor, where: Tensor, before: Tensor, given: Tensor, tensors: Any) -> Tensor:
        gate, scored = self.gate, scored.float()
        score = SCORES[gate.score_name](scored, **tensors)
        # Some runtimes lose a NaN in Clip and Max, and with it the rule that a NaN score fires.
        fired = fires(score, gate.threshold, gate.side) | ~torch.isfinite(scored).all(-1)
        latched = ((fired & where).long().cumsum(1) > 0) | (before > 0).unsqueeze(1)
        column = given.unsqueeze(1)
        return (latched & (column < 0)) | (column > 0)


class LayerBody(nn.Module):
    """Body of a SteeringLayer: states [B, T, d] and where they are steered, [B, T] bool -> states [B, T, d]."""

    def __init__(self, layer: SteeringLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, states: Tensor, where: Tensor, tensors: Any) -> Tensor:
        layer = self.layer
        ready = prepare(layer.op, layer.options, tensors)
        edited = EDITS[layer.op](states.float(), **layer.options, **ready).to(states.dtype)
        return torch.where(where.unsqueeze(-1), edited, states)


class SteeringNodes:
    """Hangs the nodes of a program on the blocks of its model while the model is traced.

    ``call`` is set by whoever traces, for each pass.

    Args:
        embed: ids [n] -> their rows [n, d] float32, where the decoder reads embeddings and not ids.
    """

    def __init__(self, steering: Steering, embed: Callable[[Tensor], Tensor] | None = None) -> None:
        self.steering = steering
        self.layout = Layout.of(steering.section)
        self.table = header_table(steering, embed)
        self.names = tuple(gate["name"] for gate in steering.section["gates"])
        self.call: GraphCall | None = None

    def install(self, blocks: nn.ModuleList) -> None:
        for index in self.steering.steered_blocks:
            blocks[index].register_forward_hook(_NodeHook(self, index), prepend=True)

    def begin(
        self, tokens: Tensor, mask: Tensor, before: Remembered, given: Tensor, rows: Tensor | None
    ) -> GraphCall:
        """Starts a pass over tokens [B, T], or their embeddings [B, T, d] and the ``rows`` of the header's tokens."""
        ends, header = torch.zeros_like(mask), torch.zeros_like(mask, dtype=torch.float32)
        if self.table is not None:
            inputs = [tokens, mask, before.header, *([] if rows is None else [rows])]
            ends, header = torch.onnx.ops.symbolic_multi_out(
                f"{DOMAIN}::{HEADERS}",
                inputs,
                dtypes=[torch.bool, torch.float32],
                shapes=[mask.shape, mask.shape],
                version=1,
            )
        self.call = GraphCall(mask, ends, header, given, before, {}, {})
        return self.call

    def remembered(self) -> Remembered:
        """The state [B, T] at each column of the pass, once its blocks have run."""
        call = self.call
        assert call is not None
        gates = torch.stack([call.on[name] for name in self.names], dim=-1).float()
        count = call.before.count.unsqueeze(1) + call.mask.float().cumsum(1)
        return Remembered(gates, call.header, count, call.means)

    def at_block(self, index: int, states: Tensor) -> Tensor:
        """Output [B, T, d] of block ``index`` behind its nodes."""
        call = self.call
        assert call is not None, "a graph is traced without its steering"
        if index in self.layout.mean_layers:
            inputs = [states, call.mask, call.before.count, call.before.means[index]]
            call.means[index] = _node(f"{MEAN}_{index}", inputs, torch.float32, states.shape)
        for number, name in enumerate(self.names):
            gate = self.steering.gates[name]
            assert isinstance(gate, SteeringGate)
            if gate.layer == index:
                scored = call.means[index] if gate.pool == "prompt_mean" else states
                where = call.mask if gate.pool == "token" else call.ends
                tensors = [call.before.gates[:, number], call.given[:, number]]
                inputs = [scored, where, *tensors, *_tensors(gate)]
                call.on[name] = _node(gate_op(name), inputs, torch.bool, states.shape[:2])
        layer = self.steering.layers._modules.get(str(index))
        if layer is None:
            return states
        assert isinstance(layer, SteeringLayer)
        where = self._steered(index, call)
        return _node(layer_op(index), [states, where, *_tensors(layer)], states.dtype, states.shape)

    def _steered(self, index: int, call: GraphCall) -> Tensor:
        """Columns [B, T] bool that the edit of a block covers: where any of its gates is on if it has some; padding behind one is steered too."""
        edits = {edit["layer"]: edit["gate"] for edit in self.steering.section["edits"]}
        asked = edits[index]
        if asked is None:
            return torch.ones_like(call.mask)
        on = [call.on[name] for name in ([asked] if isinstance(asked, str) else asked)]
        return torch.stack(on, dim=-1).any(-1)


class _NodeHook:
    def __init__(self, nodes: SteeringNodes, index: int) -> None:
        self.nodes, self.index = nodes, index

    def __call__(self, _block: nn.Module, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (self.nodes.at_block(self.index, output[0]), *output[1:])
        return self.nodes.at_block(self.index, output)


def header_table(steering: Steering, embed: Callable[[Tensor], Tensor] | None) -> HeaderTable | None:
    """The headers that the gates of a program are decided at; None where every gate is decided at every column."""
    section = steering.section
    if all(gate["pool"] == "token" for gate in section["gates"]):
        return None
    return HeaderTable.of(section["headers"], embed)


def gate_op(name: str) -> str:
    """Operator of one gate's node."""
    return f"{GATE}_{name}"


def layer_op(index: int) -> str:
    """Operator of one edit's node."""
    return f"{LAYER}_{index}"


class Body(NamedTuple):
    """The body of one node: its operator, its module, and example inputs in the order of the node's.

    ``columns`` names the inputs whose second axis is that of the columns; the first is the batch, but for the steering tensors, which
    are a mapping ``tensors``.
    """

    op: str
    module: nn.Module
    inputs: dict[str, Any]
    columns: tuple[str, ...]
    prefix: str = ""
    """Of the full names of its steering tensors; empty where it reads none."""
    options: tuple[object, ...] | None = None
    """All that its module computes with besides its inputs; None where no other body is the same."""

    @property
    def same(self) -> object:
        """Equal for bodies of which one graph will do: of one kind, with the same options and inputs of the same sizes."""
        if self.options is None:
            return self.op
        sizes = [(name, _sizes(value)) for name, value in self.inputs.items()]
        return type(self.module), self.options, tuple(sizes)

    def tensors(self) -> dict[str, Tensor]:
        """The steering tensors by their full names, in the order in which they are the node's last inputs."""
        return (
            {f"{self.prefix}{name}": one for name, one in self.inputs["tensors"].items()}
            if self.prefix
            else {}
        )

    def axes(self) -> dict[str, object]:
        """For each input, the names of the axes that vary."""
        axes: dict[str, object] = {}
        for name, value in self.inputs.items():
            if isinstance(value, dict):
                axes[name] = {key: {} for key in value}
            else:
                axes[name] = {0: "batch", **({1: "length"} if name in self.columns else {})}
        return axes


def bodies(steering: Steering, dtype: torch.dtype, table: HeaderTable | None = None) -> Iterator[Body]:
    """The body of each node; ``table`` as :func:`header_table` makes it for the graph at hand."""
    hidden, layout = int(steering.section["hidden_size"]), Layout.of(steering.section)
    states = torch.randn(2, 3, hidden, dtype=dtype)
    mask = torch.ones(2, 3, dtype=torch.bool)
    numbers = torch.tensor([0.0, 1.0])
    options: tuple[object, ...]
    if table is not None:
        tokens = torch.zeros(2, 3, dtype=torch.long) if table.rows is None else torch.randn(2, 3, hidden)
        rows = {} if table.rows is None else {"tensors": {"rows": table.rows}}
        inputs: dict[str, object] = {"tokens": tokens, "mask": mask, "before": numbers, **rows}
        yield Body(HEADERS, HeadersBody(table), inputs, ("tokens", "mask"))
    for index in layout.mean_layers:
        before = {"count": numbers, "mean": torch.randn(2, hidden)}
        inputs = {"states": states, "mask": mask, **before}
        yield Body(f"{MEAN}_{index}", MeanBody(), inputs, ("states", "mask"), options=())
    for name, gate in steering.gates.items():
        assert isinstance(gate, SteeringGate)
        scored = states.float() if gate.pool == "prompt_mean" else states
        tensors = {"before": numbers, "given": torch.tensor([-1.0, 1.0])}
        inputs = {"scored": scored, "where": mask, **tensors, "tensors": _named(gate)}
        prefix, options = f"steering.gates.{name}.", (gate.score_name, gate.threshold, gate.side)
        yield Body(gate_op(name), GateBody(gate), inputs, ("scored", "where"), prefix, options)
    for number, layer in steering.layers.items():
        assert isinstance(layer, SteeringLayer)
        inputs = {"states": states, "where": mask, "tensors": _named(layer)}
        prefix, options = f"steering.layers.{number}.", (layer.op, *sorted(layer.options.items()))
        yield Body(layer_op(int(number)), LayerBody(layer), inputs, ("states", "where"), prefix, options)


def _sizes(value: Any) -> object:
    if isinstance(value, dict):
        return tuple((name, _sizes(one)) for name, one in value.items())
    return value.dtype, tuple(value.shape)


def _node(op: str, inputs: list[Tensor], dtype: torch.dtype, shape: Any) -> Tensor:
    return torch.onnx.ops.symbolic(f"{DOMAIN}::{op}", inputs, dtype=dtype, shape=shape, version=1)


def _named(module: SteeringGate | SteeringLayer) -> dict[str, Tensor]:
    return {name: getattr(module, name) for name in module.tensor_names}


def _tensors(module: SteeringGate | SteeringLayer) -> list[Tensor]:
    return list(_named(module).values())
