"""The one file of a tokenizer that a runner without Transformers reads."""

from __future__ import annotations

from pathlib import Path

from exporter.errors import CompileError

TOKENIZER = "tokenizer.json"


def write_core(tokenizer: object, folder: Path) -> None:
    """Writes the tokenizer as it was loaded; raises CompileError for one that is not made of such a file."""
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is None:
        raise CompileError(
            f"the tokenizer ({type(tokenizer).__name__}) has no {TOKENIZER}, which the runner of the graphs needs, and it cannot be "
            "converted; load it as a fast tokenizer and save it with the base"
        )
    core.save(str(folder / TOKENIZER))
