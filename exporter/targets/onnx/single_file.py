"""Writes a graph with its weights in one file, one tensor in memory at a time.

The protobuf library makes two copies of a whole model to serialise it. But a message of protobuf is the concatenation of its
fields, so the weights can be appended, each as one more ``initializer`` of the graph (field 5), with only the length of the
graph (field 7 of the model) to be known before (https://protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx import TensorProto

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
LARGEST = 2_000_000_000
"""Bytes: a protobuf message ends at 2 GiB; what is larger has its weights beside it."""
_SMALL = 1024


def write_graph(model: ir.Model, path: Path) -> None:
    """Writes ``path``; weights of more than :data:`LARGEST` bytes in all go into ``NAME_data`` beside it."""
    large = [
        v
        for v in model.graph.initializers.values()
        if v.const_value is not None and v.const_value.nbytes > _SMALL
    ]
    if sum(v.const_value.nbytes for v in large if v.const_value is not None) > LARGEST:
        ir.save(model, path, external_data=f"{path.name}_data", size_threshold_bytes=_SMALL)
        return
    for value in large:
        assert value.name is not None
        del model.graph.initializers[value.name]
    try:
        proto = ir.to_proto(model)
    finally:
        for value in large:
            model.graph.register_initializer(value)
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    heads = [_head(value) for value in large]
    sizes = [_length(head, value) for head, value in zip(heads, large, strict=True)]
    total = len(graph) + sum(len(_tag(_INITIALIZER)) + len(_varint(size)) + size for size in sizes)
    with path.open("wb") as handle:
        handle.write(proto.SerializeToString() + _tag(_GRAPH) + _varint(total) + graph)
        for value, head, size in zip(large, heads, sizes, strict=True):
            handle.write(_tag(_INITIALIZER) + _varint(size) + head)
            handle.write(_raw(value))


def _head(value: ir.Value) -> bytes:
    """A TensorProto up to its raw data."""
    tensor = value.const_value
    assert tensor is not None
    proto = TensorProto(name=value.name, data_type=int(tensor.dtype), dims=list(tensor.shape.numpy()))
    return bytes(proto.SerializeToString()) + _tag(_RAW_DATA) + _varint(tensor.nbytes)


def _length(head: bytes, value: ir.Value) -> int:
    assert value.const_value is not None
    return len(head) + value.const_value.nbytes


def _raw(value: ir.Value) -> memoryview:
    """Little-endian bytes of a tensor, without a copy of them where it lies as it is to be written."""
    assert value.const_value is not None
    array = np.ascontiguousarray(value.const_value.numpy())
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def _tag(field: int) -> bytes:
    """Tag of a length-delimited field."""
    return _varint(field << 3 | 2)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
