"""From a Transformers checkpoint to a GGUF file, by llama.cpp's own converter."""

from __future__ import annotations

import sys
from pathlib import Path

from exporter.errors import CompileError
from exporter.targets.gguf.subprocesses import run_program

_HINTS = {
    "BPE pre-tokenizer was not recognized": (
        "llama.cpp does not know this tokenizer, so it would tokenise differently from the model that was steered; try a newer llama.cpp."
    ),
    "No module named": "The converter needs a package that is not installed: pip install 'steerbake[gguf]'.",
    "is not supported": "llama.cpp does not support this architecture; try a newer llama.cpp.",
}


def convert(converter: Path, stock: Path, out: Path, kind: str, name: str) -> None:
    """Writes ``out``, ``f16`` or ``f32``, as a model called ``name``.

    Raises:
        CompileError: the converter failed, or says it did not and wrote nothing.
    """
    options = ["--outfile", str(out.absolute()), "--outtype", kind, "--model-name", name]
    run_program(
        converter.name, [sys.executable, str(converter.absolute()), str(stock.absolute()), *options], _HINTS
    )
    if not out.is_file():
        raise CompileError(
            f"{converter} exited without an error but did not write {out.name}; check that it is llama.cpp's converter"
        )
