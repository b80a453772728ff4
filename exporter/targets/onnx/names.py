"""What the files of an exported folder are called, as transformers.js and Optimum know them."""

from __future__ import annotations

import torch

ONNX = "onnx"
"""The folder of the graphs."""
NAMES = ("model", "decoder_model_merged", "embed_tokens", "vision_encoder", "embedding")
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16}
_SUFFIXES = {"fp32": "", "fp16": "_fp16", "int8": "_int8", "q4": "_q4"}
DTYPES = tuple(_SUFFIXES)


def file_name(name: str, dtype: str) -> str:
    """``model`` in ``q4`` -> ``model_q4.onnx``."""
    return f"{name}{_SUFFIXES[dtype]}.onnx"
