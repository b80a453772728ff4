"""Quantised variants, by ONNX Runtime's own quantisers.

They work on the nodes of a graph and do not look into functions, so the steering stays in float32; that is checked in what they wrote.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx

from exporter.errors import CompileError
from exporter.targets.onnx.names import DTYPES, NAMES, file_name
from exporter.targets.onnx.steering_nodes import DOMAIN

BLOCK = 32
"""Weights that share a scale."""


def check(dtypes: Sequence[str]) -> None:
    """Raises CompileError for an empty choice, a repeated or an unknown dtype."""
    unknown = [dtype for dtype in dtypes if dtype not in DTYPES]
    if unknown or not dtypes or len(set(dtypes)) < len(dtypes):
        raise CompileError(f"dtypes {list(dtypes)} are not valid; choose from {', '.join(DTYPES)}")


def write(folder: Path, dtype: str) -> None:
    """Writes the ``dtype`` variant of each float32 graph in ``folder``.

    Raises:
        CompileError: the quantiser touched the steering.
    """
    logging.getLogger("onnxruntime.quantization").setLevel(logging.ERROR)
    for name in NAMES:
        source, target = folder / file_name(name, "fp32"), folder / file_name(name, dtype)
        if source.is_file():
            QUANTISERS[dtype](source, target)
            _check_steering(source, target)


def _quantised(bits: int) -> Callable[[Path, Path], None]:
    """Weights in blocks of ``bits`` with a scale and a zero point each; activations stay as they are.

    What an int8 activation loses is more than a refusal can stand: dynamic quantisation made SmolLM2 leak again (docs/log.md).
    """

    def write_one(source: Path, target: Path) -> None:
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        model = onnx.load(source)
        quantiser = MatMulNBitsQuantizer(
            model, bits=bits, block_size=BLOCK, is_symmetric=False, nodes_to_exclude=_heads(model)
        )
        quantiser.process()
        quantiser.model.save_model_to_file(str(target), source.with_name(f"{source.name}_data").is_file())

    return write_one


def _heads(model: Any) -> list[str]:
    """Matrix products whose result is the logits: a tied head costs nothing, and every wrong token starts there."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    found, node = [], made_by.get("logits")
    while node is not None and node.op_type in ("Cast", "Identity"):
        node = made_by.get(node.input[0])
    if node is not None and node.op_type == "MatMul":
        found.append(node.name)
    return found


def _check_steering(source: Path, target: Path) -> None:
    before, after = (_steering_of(onnx.load(path)) for path in (source, target))
    if before != after:
        raise CompileError(f"quantisation changed the steering of {target.name}; export another dtype")


def _steering_of(model: Any) -> tuple[object, ...]:
    """Nodes, functions and tensors of the steering, in a form that compares."""
    held = {t.name for t in model.graph.initializer}
    # The quantiser puts nodes in another order, and their other inputs are values that it may name anew.
    nodes = sorted(
        (n.op_type, n.overload, [name for name in n.input if name in held])
        for n in model.graph.node
        if n.domain == DOMAIN
    )
    functions = sorted(f.SerializeToString(deterministic=True) for f in model.functions)
    used = {name for n in model.graph.node if n.domain == DOMAIN for name in n.input}
    tensors = sorted((t.name, t.data_type, t.raw_data) for t in model.graph.initializer if t.name in used)
    return nodes, functions, tensors


QUANTISERS: dict[str, Callable[[Path, Path], None]] = {"int8": _quantised(8), "q4": _quantised(4)}
