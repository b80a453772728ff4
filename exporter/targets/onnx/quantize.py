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
"""Weights that share a scale in 4-bit variants."""


def check(dtypes: Sequence[str]) -> None:
    """Raises CompileError for an empty choice, a repeated or an unknown dtype."""
    unknown = [dtype for dtype in dtypes if dtype not in DTYPES]
    if unknown or not dtypes or len(set(dtypes)) < len(dtypes):
        raise CompileError(f"dtypes {list(dtypes)} are not a choice of {', '.join(DTYPES)}")


def write(folder: Path, dtype: str) -> None:
    """Writes the ``dtype`` variant of each float32 graph in ``folder``.

    Raises:
        CompileError: the quantiser touched the steering.
    """
    logging.getLogger().setLevel(logging.ERROR)
    for name in NAMES:
        source, target = folder / file_name(name, "fp32"), folder / file_name(name, dtype)
        if source.is_file():
            QUANTISERS[dtype](source, target)
            _check_steering(source, target)


def _int8(source: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source,
        target,
        op_types_to_quantize=["MatMul", "Gather"] if source.stem == "embed_tokens" else ["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=_is_large(source),
        extra_options={"MatMulConstBOnly": True},
    )


def _q4(source: Path, target: Path) -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    model = onnx.load(source)
    quantiser = MatMulNBitsQuantizer(model, block_size=BLOCK, is_symmetric=True, accuracy_level=4)
    quantiser.process()
    quantiser.model.save_model_to_file(str(target), _is_large(source))


def _is_large(source: Path) -> bool:
    return source.with_name(f"{source.name}_data").is_file()


def _check_steering(source: Path, target: Path) -> None:
    before, after = (_steering_of(onnx.load(path)) for path in (source, target))
    if before != after:
        raise CompileError(f"the quantiser changed the steering of {target.name}; export another dtype")


def _steering_of(model: Any) -> tuple[Any, ...]:
    """Nodes, functions and tensors of the steering, in a form that compares."""
    nodes = [(n.op_type, n.overload, list(n.input)[-1]) for n in model.graph.node if n.domain == DOMAIN]
    functions = sorted(f.SerializeToString(deterministic=True) for f in model.functions)
    used = {name for n in model.graph.node if n.domain == DOMAIN for name in n.input}
    tensors = sorted((t.name, t.data_type, t.raw_data) for t in model.graph.initializer if t.name in used)
    return nodes, functions, tensors


QUANTISERS: dict[str, Callable[[Path, Path], None]] = {"int8": _int8, "q4": _q4}
