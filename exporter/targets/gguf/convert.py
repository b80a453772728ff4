"""From a Transformers checkpoint to a GGUF file, by llama.cpp's own converter."""

from __future__ import annotations

import sys
from pathlib import Path

from exporter.errors import CompileError
from exporter.targets.gguf.subprocesses import run_program

_HINTS = {
    "BPE pre-tokenizer was not recognized": (
        "llama.cpp does not know this tokenizer, so it would cut words otherwise than the model was steered for; a newer "
        "llama.cpp may know it."
    ),
    "No module named": "The converter needs a package that is not here: pip install 'steerbake[gguf]'.",
    "is not supported": "llama.cpp has no such architecture; a newer one may.",
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
            f"{converter} ended well and did not write {out.name}; is it llama.cpp's converter?"
        )
