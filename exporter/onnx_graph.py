"""Reads the steering from an ONNX file and compares it with the stated section. Self-contained: exported folders have a copy.

An ONNX file is a protobuf message, a concatenation of fields, each a number, a kind and a value
(https://protobuf.dev/programming-guides/encoding; numbers of fields: onnx.proto3). What is needed of it is little enough to be read here, so that
a machine without the onnx package checks as much as one that has it.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

DOMAIN, HEADERS, MEAN, GATE, LAYER = (
    "steerbake",
    "SteeringHeaders",
    "SteeringMean",
    "SteeringGate",
    "SteeringLayer",
)
PREFIX = "steering."
SECTION, SIGNED = "steerbake.steering", "steerbake.steering_sha256"
"""Metadata of a graph: its steering section, and the SHA-256 of what makes it another model than its base."""
_FLOAT = 1
_MOST_FLOATS = 1 << 31
Buffer = memoryview


class GraphError(ValueError):
    """A graph that does not contain the stated steering, or a file that is not a graph."""


@dataclass(frozen=True)
class Node:
    """One node of the graph; ``op`` is its operator and overload, ``SteeringGate_topic`` or ``SteeringHeaders``."""

    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass
class Graph:
    """What is read of a model.

    Attributes:
        tensors: float32 initializers by name, those that begin with ``steering.``.
        functions: by operator and overload, those of our domain: for each of their inputs, whether a node of theirs reads it.
    """

    nodes: list[Node] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    functions: dict[str, tuple[bool, ...]] = field(default_factory=dict)


def read_graph(path: Path) -> Graph:
    """The steering of an ONNX file, with as much around it as tells whether it is in the way of every answer.

    Raises:
        GraphError: the file is no ONNX model, or a tensor of its steering is no float32.
    """
    try:
        with path.open("rb") as handle:
            mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        return _model(memoryview(mapped), path.parent)
    except (ValueError, IndexError, struct.error, OSError) as error:
        raise (
            error if isinstance(error, GraphError) else GraphError(f"{path.name} cannot be read: {error}")
        ) from error


def check_steering(path: Path, section: Mapping[str, object]) -> dict[str, np.ndarray]:
    """The steering tensors of a graph that bears a section whole, once for each gate and edit, in the way of every answer.

    Args:
        section: the signed section of a manifest.

    Raises:
        GraphError: with everything that is wrong.
    """
    graph = read_graph(path)
    try:
        wrong = [*_sha_faults(graph, section), *_node_faults(graph, section)]
    except (KeyError, TypeError, AttributeError) as error:
        raise GraphError(f"the steering section of {path.name} cannot be read: {error!r}") from error
    if wrong:
        raise GraphError(
            f"{path.name} does not contain the steering that its manifest states: {'; '.join(wrong)}"
        )
    return graph.tensors


def check_unsteered(path: Path, kind: str) -> None:
    """Checks that a graph has no steering and never had: one whose gates were taken out still bears its section, tensors or functions.

    Args:
        kind: what its metadata must say that it is, in place of the SHA-256 of a steering section.

    Raises:
        GraphError: with everything that is wrong.
    """
    graph = read_graph(path)
    wrong = (
        [f"it says that it is {graph.metadata.get(SIGNED)}, not {kind}"]
        if graph.metadata.get(SIGNED) != kind
        else []
    )
    wrong += ["its metadata has a steering section"] if SECTION in graph.metadata else []
    wrong += [f"it has the steering node {node.op}" for node in graph.nodes if node.domain == DOMAIN]
    wrong += [f"it has the steering tensor {name}" for name in graph.tensors]
    wrong += [f"it has the steering function {name}" for name in graph.functions]
    if wrong:
        raise GraphError(
            f"{path.name} is not the graph without steering that its manifest states: {'; '.join(wrong)}"
        )


def program_sha256(section: Mapping[str, object], tensors: Mapping[str, np.ndarray]) -> str:
    """Hex SHA-256 of a program, as docs/format.md has it and ``steer_modules.program`` makes it."""
    plain = {key: value for key, value in section.items() if key != "sha256"}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(f"{name}F32[{','.join(map(str, tensors[name].shape))}]".encode())
        digest.update(np.ascontiguousarray(tensors[name], "<f4").tobytes())
    return digest.hexdigest()


def _sha_faults(graph: Graph, section: Mapping[str, object]) -> Iterator[str]:
    if program_sha256(section, graph.tensors) != section.get("sha256"):
        yield "the SHA-256 of section and tensors does not match: a tensor was changed or is missing"


def _node_faults(graph: Graph, section: Mapping[str, Any]) -> Iterator[str]:
    """One node for each gate and edit, that reads its tensors, has a body, and cannot be gone around; and those that gates read."""
    wanted = {f"{GATE}_{gate['name']}": f"gates.{gate['name']}" for gate in section["gates"]}
    wanted |= {f"{LAYER}_{edit['layer']}": f"layers.{edit['layer']}" for edit in section["edits"]}
    asked = {name for edit in section["edits"] for name in _names(edit["gate"])}
    idle = {f"{GATE}_{gate['name']}" for gate in section["gates"] if gate["name"] not in asked}
    for gate in section["gates"]:
        if gate["pool"] != "token":
            wanted[HEADERS] = ""
        if gate["pool"] == "prompt_mean":
            wanted[f"{MEAN}_{gate['layer']}"] = ""
    steering = [node for node in graph.nodes if node.domain == DOMAIN]
    if sorted(node.op for node in steering) != sorted(wanted):
        found = ", ".join(sorted(node.op for node in steering)) or "none"
        yield f"its steering nodes are {found}, not {', '.join(sorted(wanted))}"
        return
    if shadowed := [name for name in graph.inputs if name.startswith(PREFIX)]:
        yield f"{shadowed[0]} is also an input of the graph, so it can be overridden"
    reaching = _reaching(graph, ["logits"])
    for node in steering:
        own = {name for name in graph.tensors if name.startswith(f"{PREFIX}{wanted[node.op]}.")}
        read = [name for name in node.inputs if name.startswith(PREFIX)]
        if bool(own) != bool(wanted[node.op]) or set(read) != own or len(read) != len(own):
            yield f"the node {node.op} reads {', '.join(read) or 'no tensors'}, not {', '.join(sorted(own)) or 'its own'}"
        if not _is_read(node, graph.functions.get(node.op, ())):
            yield f"the function of the node {node.op} is missing or does not use the inputs of the node"
        if node.op not in idle and not reaching.intersection(node.outputs):
            yield f"the output of the node {node.op} does not reach the logits"
        if node.op.startswith(f"{LAYER}_") and (around := _around(graph, node)):
            yield f"the input states of the node {node.op} bypass it, into {around}"
    yield from _unheard(graph, section, {node.op: node for node in steering})


def _unheard(graph: Graph, section: Mapping[str, Any], steering: Mapping[str, Node]) -> Iterator[str]:
    """What a gate or an edit is to be decided by and its node does not read: headers by each gate, its gates by each edit."""
    heard = [(f"{GATE}_{gate['name']}", HEADERS) for gate in section["gates"] if gate["pool"] != "token"]
    for edit in section["edits"]:
        heard += [(f"{LAYER}_{edit['layer']}", f"{GATE}_{name}") for name in _names(edit["gate"])]
    for op, by in heard:
        where = _reaching(graph, [steering[op].inputs[1]], past_steering=False)
        if not where.intersection(steering[by].outputs):
            yield f"the output of the node {by} does not reach the node {op}"


def _names(gates: Any) -> list[str]:
    """The gates of an edit: none, one, or several."""
    return [gates] if isinstance(gates, str) else list(gates or ())


def _is_read(node: Node, read: Sequence[bool]) -> bool:
    """Whether a function reads the states and the tensors that its node is given."""
    if len(read) != len(node.inputs):
        return False
    needed = zip(node.inputs, read, strict=True)
    return read[0] and all(is_read for name, is_read in needed if name.startswith(PREFIX))


def _reaching(graph: Graph, targets: Iterable[str], *, past_steering: bool = True) -> set[str]:
    """Names of every value that some target is made of; without ``past_steering``, not of those that steering nodes are made of."""
    nodes = (node for node in graph.nodes if past_steering or node.domain != DOMAIN)
    made_by = {name: node for node in nodes for name in node.outputs}
    found: set[str] = set()
    waiting = list(targets)
    while waiting:
        name = waiting.pop()
        if name and name not in found:
            found.add(name)
            waiting += made_by[name].inputs if name in made_by else ()
    return found


def _around(graph: Graph, layer: Node) -> str:
    """The operator of a node that reads the states before they are steered, if there is any but steering nodes."""
    states = layer.inputs[0]
    if states in graph.outputs:
        return "an output"
    readers = (node for node in graph.nodes if states in node.inputs and node.domain != DOMAIN)
    return next((node.op for node in readers), "")


def _model(whole: Buffer, folder: Path) -> Graph:
    """ModelProto: graph 7, metadata 14, functions 25."""
    graph = Graph()
    graphs = 0
    for number, value in _fields(whole):
        if number == 7:
            graphs += 1
            _read_graph(_message(value), folder, graph)
        elif number == 14:
            pair = {at: _text(inner) for at, inner in _fields(_message(value))}
            graph.metadata[pair.get(1, "")] = pair.get(2, "")
        elif number == 25:
            name, outputs = _function(_message(value))
            if name in graph.functions:
                raise GraphError(f"it contains the function {name} twice")
            if name:
                graph.functions[name] = outputs
    if graphs != 1:
        raise GraphError(f"it contains {graphs} graphs, not one")
    return graph


def _read_graph(message: Buffer, folder: Path, graph: Graph) -> None:
    """GraphProto: nodes 1, initializers 5, inputs 11, outputs 12."""
    for number, value in _fields(message):
        if number == 1:
            graph.nodes.append(_node(_message(value)))
        elif number in (11, 12):
            names = graph.inputs if number == 11 else graph.outputs
            names += [_text(inner) for at, inner in _fields(_message(value)) if at == 1]
        elif number == 5:
            fields = dict[int, list[object]]()
            for at, inner in _fields(_message(value)):
                fields.setdefault(at, []).append(inner)
            name = _text(fields.get(8, [b""])[-1])
            if name.startswith(PREFIX):
                if name in graph.tensors:
                    raise GraphError(f"it contains the tensor {name} twice")
                graph.tensors[name] = _tensor(name, fields, folder)


def _node(message: Buffer) -> Node:
    """NodeProto: inputs 1, outputs 2, operator 4, domain 7, overload 8."""
    fields: dict[int, list[str]] = {number: [] for number in (1, 2, 4, 7, 8)}
    for number, value in _fields(message):
        if number in fields:
            fields[number].append(_text(value))
    last = {number: (fields[number] or [""])[-1] for number in (4, 7, 8)}
    op = f"{last[4]}_{last[8]}".rstrip("_") if last[7] == DOMAIN else last[4]
    return Node(op, last[7], tuple(fields[1]), tuple(fields[2]))


def _function(message: Buffer) -> tuple[str, tuple[bool, ...]]:
    """FunctionProto: name 1, inputs 4, nodes 7, domain 10, overload 13. The name is empty for one that is not ours."""
    last = {1: "", 10: "", 13: ""}
    inputs: list[str] = []
    read: set[str] = set()
    for number, value in _fields(message):
        if number in last:
            last[number] = _text(value)
        elif number == 4:
            inputs.append(_text(value))
        elif number == 7:
            read.update(_node(_message(value)).inputs)
    return f"{last[1]}_{last[13]}".rstrip("_") if last[10] == DOMAIN else "", tuple(
        name in read for name in inputs
    )


def _tensor(name: str, fields: Mapping[int, list[Any]], folder: Path) -> np.ndarray:
    """TensorProto: dims 1, data_type 2, float_data 4, raw_data 9, external_data 13, data_location 14."""
    if fields.get(2, [0])[-1] != _FLOAT or 3 in fields:
        raise GraphError(f"the tensor {name} is not float32")
    shape = tuple(size for one in fields.get(1, ()) for size in _numbers(one))
    count = prod(shape)
    if not 0 <= count < _MOST_FLOATS or any(size < 0 for size in shape):
        raise GraphError(f"the tensor {name} has the shape {list(shape)}")
    if fields.get(14, [0])[-1] == 1:
        data = _beside(name, fields.get(13, ()), folder, count * 4)
    elif 9 in fields:
        data = bytes(_message(fields[9][-1]))
    else:
        data = b"".join(bytes(one) for one in fields.get(4, ()))
    if len(data) != count * 4:
        raise GraphError(f"the tensor {name} has {len(data)} bytes, not {count * 4}")
    return np.frombuffer(data, "<f4").reshape(shape)


def _beside(name: str, entries: Iterable[object], folder: Path, size: int) -> bytes:
    """External data: StringStringEntryProto, key 1 and value 2, of ``location``, ``offset`` and ``length``."""
    keys: dict[str, str] = {}
    for entry in entries:
        pair = {number: _text(value) for number, value in _fields(_message(entry))}
        keys[pair.get(1, "")] = pair.get(2, "")
    location = keys.get("location", "")
    if not location or location != Path(location).name or int(keys.get("length", size)) != size:
        raise GraphError(
            f"the external data of {name} is at {location!r}, with {keys.get('length')} bytes, which is not a valid location"
        )
    with (folder / location).open("rb") as handle:
        handle.seek(int(keys.get("offset", 0)))
        return handle.read(size)


def _fields(message: Buffer) -> Iterator[tuple[int, object]]:
    """Number and value of each field: an integer, or the bytes of what has a length."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise GraphError(f"it is not an ONNX model: byte {at} begins a field of kind {kind}")
        if at + size > end:
            raise GraphError("it is not an ONNX model: a field is longer than the message that contains it")
        yield tag >> 3, message[at : at + size]
        at += size


def _varint(message: Buffer, at: int) -> tuple[int, int]:
    """An integer of seven bits a byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise GraphError("it is not an ONNX model: an integer does not end")


def _numbers(value: Any) -> Iterator[int]:
    """Integers of a repeated field, packed or one by one."""
    if isinstance(value, int):
        yield value
        return
    at = 0
    while at < len(value):
        one, at = _varint(value, at)
        yield one


def _message(value: Any) -> Buffer:
    if isinstance(value, int):
        raise GraphError("it is not an ONNX model: found a number in place of a message")
    return memoryview(value)


def _text(value: object) -> str:
    return bytes(_message(value)).decode("utf-8")
