"""A GGUF file run by llama.cpp, in this process and on the CPU."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.errors import CompileError, VerificationError
from exporter.targets.gguf.tools import INSTALL

_CACHES = {"f32": 0, "f16": 1}


class GgufModel:
    """A loaded file; every call begins with an empty cache.

    Attributes:
        blocks: decoder layers that llama.cpp found.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.blocks = int(model.metadata[f"{model.metadata['general.architecture']}.block_count"])

    def tokenize(self, text: str) -> list[int]:
        """Token ids as the file's own tokenizer cuts the text; special tokens are read as such and none is added."""
        return [int(one) for one in self._model.tokenize(text.encode(), add_bos=False, special=True)]

    def generate(self, prompt: Sequence[int], max_new_tokens: int, ends: Collection[int] = ()) -> list[int]:
        """The greedy continuation; the id of ``ends`` that ended it is part of it."""
        self._model.reset()
        found: list[int] = []
        stream = self._model.generate(list(prompt), temp=0.0, repeat_penalty=1.0, reset=False)
        for token in islice(stream, max_new_tokens):
            found.append(int(token))
            if token in ends:
                break
        return found

    def logits(self, prompt: Sequence[int]) -> NDArray[np.float32]:
        """The logits [T, V] behind every token, of a model opened with ``logits_all``."""
        self._model.reset()
        self._model.eval(list(prompt))
        return np.array(self._model.scores[: len(prompt)], dtype=np.float32)


@contextmanager
def opened(
    path: Path, room: int, *, threads: int | None = None, cache: str = "f16", logits_all: bool = False
) -> Iterator[GgufModel]:
    """A model with a context of ``room`` tokens, closed at the end of the block.

    Args:
        threads: half of the cores where it is None. More than there are idle cores make llama.cpp very slow, unless the environment
            had OMP_WAIT_POLICY=passive when Python began.
        cache: type of the keys and values, ``f16`` (llama.cpp's own) or ``f32``.
        logits_all: keep the logits of every token, [room, V] floats.

    Raises:
        CompileError: llama-cpp-python is missing.
        VerificationError: llama.cpp does not load the file.
    """
    try:
        from llama_cpp import Llama
    except ImportError:
        raise CompileError(f"running GGUF files needs llama-cpp-python: {INSTALL}") from None
    workers = threads or max(1, (os.cpu_count() or 1) // 2)
    try:
        model = Llama(
            model_path=str(path),
            n_ctx=room + 1,
            n_threads=workers,
            n_threads_batch=workers,
            type_k=_CACHES[cache],
            type_v=_CACHES[cache],
            logits_all=logits_all,
            verbose=False,
        )
    except (ValueError, OSError) as error:
        raise VerificationError(f"llama.cpp cannot load {path}: {error}") from None
    try:
        yield GgufModel(model)
    finally:
        model.close()


def generate(
    path: Path,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    ends: Collection[int] = (),
    *,
    threads: int | None = None,
    cache: str = "f16",
) -> list[list[int]]:
    """Greedy continuations of token ids, one prompt at a time; nothing is put before them.

    Args:
        ends: ids that end a continuation; the one that did is part of it.
        threads: as for ``opened``, like ``cache`` and the errors.
    """
    room = max(map(len, prompts), default=0) + max_new_tokens
    with opened(path, room, threads=threads, cache=cache) as model:
        return [model.generate(prompt, max_new_tokens, ends) for prompt in prompts]


def logits(
    path: Path, prompts: Sequence[Sequence[int]], *, threads: int | None = None, cache: str = "f16"
) -> list[NDArray[np.float32]]:
    """The logits [T, V] behind every token of each prompt; arguments and errors are those of ``opened``.

    Two files can agree to the bit only where both are run with the same threads.
    """
    room = max(map(len, prompts), default=0)
    with opened(path, room, threads=threads, cache=cache, logits_all=True) as model:
        return [model.logits(prompt) for prompt in prompts]
