"""Gates and edits as nodes of a graph: one ``steerbake::SteeringGate`` per gate, one ``steerbake::SteeringLayer`` per edit.

Each node is a function whose body the model itself holds, so no runtime needs an operator of ours, and a quantiser, which
works on the nodes of the graph, leaves the steering in float32. The bodies are exported from the very functions that steer
the checkpoint (``steer_modules.ops``). Tensors are inputs of the node, under the names they have in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steer_modules.call import SteeringCall
from steer_modules.ops import EDITS, SCORES, fires, prepare
from steer_modules.steering_layer import Steering, SteeringGate, SteeringLayer

DOMAIN = "steerbake"
GATE, LAYER = "SteeringGate", "SteeringLayer"


@dataclass
class GraphCall:
    """What the steering of one traced pass over columns ``past .. past + T - 1`` reads.

    Attributes:
        mask: [B, T] bool, the columns of this pass that are not padding.
        end: [B] int64, column within this pass at which prompt gates are read.
        behind_prompt: [1] bool, whether the whole pass lies behind the first prompt end.
        given: by gate, [B] float32: 1 steer, 0 do not, -1 decide now.
        fired: by gate, what was decided: [B, 1], or [B, T] for a gate pooled per token; bool.
    """

    mask: Tensor
    end: Tensor
    behind_prompt: Tensor
    given: Mapping[str, Tensor]
    fired: dict[str, Tensor]

    def place(self, positions: str) -> Tensor:
        """Columns [B, T] bool that an edit with these positions covers."""
        if positions == "all":
            return self.mask
        columns = torch.arange(self.mask.shape[1], device=self.mask.device)
        end = self.end.unsqueeze(1)
        if positions == "from_prompt_end":
            return self.mask & ((columns >= end) | self.behind_prompt)
        return self.mask & (columns <= end) & ~self.behind_prompt


class GateBody(nn.Module):
    """Body of a SteeringGate: states [B, T, d], end [B], mask [B, T], given [B] -> [B, 1] or [B, T] bool."""

    def __init__(self, gate: SteeringGate) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, states: Tensor, end: Tensor, mask: Tensor, given: Tensor, tensors: Any) -> Tensor:
        gate, call = self.gate, SteeringCall((self.gate.name,), 0, end, end, mask, tracing=True)
        pooled = call.pool(gate.pool, states).float()
        score = SCORES[gate.score_name](pooled, **tensors)
        # Some runtimes lose a NaN in Clip and Max, and with it the rule that a NaN score fires.
        decided = fires(score, gate.threshold, gate.side) | ~torch.isfinite(pooled).all(-1)
        if gate.pool == "token":
            return decided
        return ((decided & (given < 0)) | (given > 0)).unsqueeze(1)


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
    """

    def __init__(self, steering: Steering) -> None:
        self.steering = steering
        self.call: GraphCall | None = None

    def install(self, blocks: nn.ModuleList) -> None:
        for index in self.steering.steered_blocks:
            blocks[index].register_forward_hook(_NodeHook(self, index), prepend=True)

    def at_block(self, index: int, states: Tensor) -> Tensor:
        """Output [B, T, d] of block ``index`` behind its nodes."""
        call = self.call
        assert call is not None, "a graph is traced without its steering"
        for name, gate in self.gates_at(index):
            call.fired[name] = _gate_node(gate, states, call)
        layer = self.steering.layers._modules.get(str(index))
        if layer is None:
            return states
        assert isinstance(layer, SteeringLayer)
        place = call.place(layer.positions)
        where = place if layer.gate is None else place & call.fired[layer.gate]
        return _node(layer_op(index), [states, where, *_tensors(layer)], states.dtype, states.shape)

    def gates_at(self, index: int) -> Iterator[tuple[str, SteeringGate]]:
        for name, gate in self.steering.gates.items():
            assert isinstance(gate, SteeringGate)
            if gate.layer == index:
                yield name, gate


class _NodeHook:
    def __init__(self, nodes: SteeringNodes, index: int) -> None:
        self.nodes, self.index = nodes, index

    def __call__(self, _block: nn.Module, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (self.nodes.at_block(self.index, output[0]), *output[1:])
        return self.nodes.at_block(self.index, output)


def gate_op(name: str) -> str:
    """Operator of one gate's node."""
    return f"{GATE}_{name}"


def layer_op(index: int) -> str:
    """Operator of one edit's node."""
    return f"{LAYER}_{index}"


def bodies(steering: Steering, dtype: torch.dtype) -> Iterator[tuple[str, nn.Module, dict[str, Any]]]:
    """For each node: its operator, its body, and example inputs of the body in the order of the node's."""
    hidden = int(steering.section["hidden_size"])
    states = torch.randn(2, 3, hidden, dtype=dtype)
    mask = torch.ones(2, 3, dtype=torch.bool)
    for name, gate in steering.gates.items():
        assert isinstance(gate, SteeringGate)
        inputs: dict[str, Any] = {"states": states}
        inputs |= {"end": torch.tensor([2, 1]), "mask": mask, "given": torch.tensor([-1.0, 1.0])}
        yield gate_op(name), GateBody(gate), inputs | {"tensors": _named(gate)}
    for index, layer in steering.layers.items():
        assert isinstance(layer, SteeringLayer)
        yield (
            layer_op(int(index)),
            LayerBody(layer),
            {"states": states, "where": mask, "tensors": _named(layer)},
        )


def _gate_node(gate: SteeringGate, states: Tensor, call: GraphCall) -> Tensor:
    batch, length = states.shape[:2]
    shape = (batch, length) if gate.pool == "token" else (batch, 1)
    given = call.given.get(gate.name)
    given = torch.full_like(call.end, -1, dtype=torch.float32) if given is None else given
    inputs = [states, call.end, call.mask, given, *_tensors(gate)]
    return _node(gate_op(gate.name), inputs, torch.bool, shape)


def _node(op: str, inputs: list[Tensor], dtype: torch.dtype, shape: Any) -> Tensor:
    return torch.onnx.ops.symbolic(f"{DOMAIN}::{op}", inputs, dtype=dtype, shape=shape, version=1)


def _named(module: SteeringGate | SteeringLayer) -> dict[str, Tensor]:
    return {name: getattr(module, name) for name in module.tensor_names}


def _tensors(module: SteeringGate | SteeringLayer) -> list[Tensor]:
    return list(_named(module).values())
