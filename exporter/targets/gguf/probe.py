"""Whether llama.cpp runs a written file as the stock checkpoint: layers, tokens and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from exporter.errors import VerificationError
from exporter.targets.gguf import runner
from exporter.targets.gguf.stock import Stock

_TEXTS = (
    "Where does Ada Lovelace live?",
    "What's 12345 + 678? It's 13,023.",
    "Le café est fermé; c'est dommage.\n\nПривет, 世界!",
    "def f(x):\n    return x ** 2\n",
)
_NEW = 8


def probe(path: Path, stock: Stock) -> dict[str, Any]:
    """Loads a file and lets it speak.

    Returns:
        ``blocks``, ``texts`` (how many were cut into tokens alike) and ``reply`` (ids), for the manifest.

    Raises:
        VerificationError: it does not load, has other layers, cuts text otherwise, or says nothing finite.
    """
    blocks = runner.block_count(path)
    if blocks != stock.blocks:
        raise VerificationError(
            f"llama.cpp finds {blocks} layers in {path.name}, not {stock.blocks}; do not use it"
        )
    ids = runner.tokenize(path, _TEXTS)
    _check_tokens(path, stock.folder / "tokenizer.json", ids)
    prompt = ids[0] or [1]
    if not np.isfinite(runner.logits(path, [prompt])[0]).all():
        raise VerificationError(
            f"llama.cpp computes figures from {path.name} that are not finite; do not use it"
        )
    (reply,) = runner.generate(path, [prompt], _NEW)
    if not reply:
        raise VerificationError(f"llama.cpp says nothing with {path.name}; do not use it")
    return {"blocks": blocks, "texts": len(ids), "reply": reply}


def _check_tokens(path: Path, tokenizer: Path, ids: list[list[int]]) -> None:
    """Raises VerificationError where the file cuts text otherwise than the checkpoint: gates would see other states."""
    if not tokenizer.is_file():
        return
    core = Tokenizer.from_file(str(tokenizer))
    for text, found in zip(_TEXTS, ids, strict=True):
        wanted = core.encode(text, add_special_tokens=False).ids
        if found != wanted:
            raise VerificationError(
                f"{path.name} cuts {text!r} into {found} where the checkpoint's tokenizer has {wanted}; gates would see "
                "other states than they were fitted on. A newer llama.cpp may know this tokenizer"
            )
