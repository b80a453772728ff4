"""Whether llama.cpp runs a written file as the checkpoint: layers, tokens and figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from exporter.errors import VerificationError
from exporter.reader import open_reader
from exporter.targets.gguf.manifest import Probe
from exporter.targets.gguf.plain import Plain
from exporter.targets.gguf.runner import opened

_TEXTS = (
    "Where does Ada Lovelace live?",
    "What's 12345 + 678? It's 13,023.",
    "Le café est fermé; c'est dommage.\n\nПривет, 世界!",
    "def f(x):\n    return x ** 2\n",
)
_NEW, _ROOM = 8, 64


def probe(path: Path, stock: Plain) -> Probe:
    """Loads a file and lets it speak.

    Raises:
        VerificationError: it does not load, has other layers, cuts text otherwise, or says nothing finite.
    """
    with opened(path, _ROOM, logits_all=True) as model:
        ids = [model.tokenize(text) for text in _TEXTS]
        prompt = ids[0][: _ROOM - _NEW] or [0]
        finite = bool(np.isfinite(model.logits(prompt)).all())
        reply = model.generate(prompt, _NEW)
        blocks = model.blocks
    if blocks != stock.blocks:
        raise VerificationError(
            f"llama.cpp finds {blocks} layers in {path.name}, not {stock.blocks}; try another version of it"
        )
    _check_tokens(path, stock.folder, ids)
    if not finite or not reply:
        raise VerificationError(
            f"llama.cpp computes values from {path.name} that are not finite; use --type f32"
        )
    return Probe(blocks=blocks, texts=len(ids), reply=list(reply))


def _check_tokens(path: Path, stock: Path, ids: list[list[int]]) -> None:
    """Raises VerificationError where the file cuts text otherwise than the checkpoint: gates would see other states."""
    file = stock / "tokenizer.json"
    core = Tokenizer.from_file(str(file)) if file.is_file() else open_reader(stock).backend_tokenizer
    for text, found in zip(_TEXTS, ids, strict=True):
        wanted = core.encode(text, add_special_tokens=False).ids
        if found != wanted:
            raise VerificationError(
                f"{path.name} tokenises {text!r} as {found}, the checkpoint's tokenizer as {wanted}; gates would read other states than "
                "they were fitted on. Try a newer llama.cpp"
            )
