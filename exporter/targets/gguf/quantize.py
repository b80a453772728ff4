"""From an f16 file to a quantised one in which inserted layers stay f16."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exporter.errors import CompileError
from exporter.targets.gguf.precisions import QUANTISED, label
from exporter.targets.gguf.subprocesses import apart, run_program
from exporter.targets.gguf.tools import INSTALL


def quantize(quantiser: Path | None, source: Path, out: Path, kind: str, layers: Sequence[int]) -> None:
    """Writes ``out``: every layer quantised to ``kind`` but ``layers``.

    Args:
        quantiser: llama.cpp's program; None for the one within llama-cpp-python.
        source: an f16 file.

    Raises:
        CompileError: the quantiser failed.
    """
    keep = pattern(layers) if layers else None
    if quantiser is None:
        apart(_by_package, source, out, kind, keep)
    else:
        threads = str(os.cpu_count() or 1)
        options = [] if keep is None else ["--tensor-type", f"{keep}=f16"]
        run_program(
            quantiser.name, [str(quantiser), *options, str(source), str(out), label(kind), threads], {}
        )
    if not out.is_file():
        raise CompileError(
            f"the quantiser exited without an error but did not write {out.name}; try another llama.cpp"
        )


def pattern(layers: Sequence[int]) -> str:
    """A regular expression for the names of all tensors of some layers, in the tongue of C++'s std::regex."""
    return rf"^blk\.({'|'.join(str(layer) for layer in layers)})\."


def _by_package(source: Path, out: Path, kind: str, keep: str | None) -> None:
    import llama_cpp

    said: list[str] = []

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def listen(_level: int, text: bytes, _data: object) -> None:
        said.append(text.decode("utf-8", "replace"))

    llama_cpp.llama_log_set(listen, ctypes.c_void_p(0))
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = os.cpu_count() or 1
    params.ftype = QUANTISED[kind]
    if keep is not None:
        params.tt_overrides = _kept_in_f16(llama_cpp, keep)
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params))
    if status:
        last = "".join(said).strip().splitlines()[-6:]
        raise CompileError("\n  ".join([f"llama.cpp did not quantise to {label(kind)}:", *last]))


def _kept_in_f16(llama_cpp: Any, keep: str) -> Any:
    """The list of overrides, which ends with the entry whose pattern is null."""
    if not hasattr(llama_cpp, "llama_model_tensor_override"):
        raise CompileError(
            f"this llama-cpp-python cannot exclude layers from quantisation: {INSTALL} --upgrade"
        )
    overrides = (llama_cpp.llama_model_tensor_override * 2)()
    overrides[0].pattern, overrides[0].type = keep.encode(), llama_cpp.GGML_TYPE_F16
    return overrides
