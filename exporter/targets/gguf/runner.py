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

_BATCH = 512
_CACHES = {"f32": 0, "f16": 1}


def generate(
    path: Path,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    ends: Collection[int] = (),
    *,
    threads: int | None = None,
    cache: str = "f16",
) -> list[list[int]]:
    """Greedy continuations, one prompt at a time.

    Args:
        prompts: token ids; nothing is put before them.
        ends: ids that end a continuation; the one that did is part of it.
        threads: all cores where it is None.
        cache: type of the keys and values, ``f16`` (llama.cpp's own) or ``f32``.

    Returns:
        The new ids of each prompt.

    Raises:
        CompileError: llama-cpp-python is missing.
        VerificationError: llama.cpp does not load the file.
    """
    room = max(map(len, prompts), default=0) + max_new_tokens
    with _loaded(path, room, threads, cache) as model:
        return [_continued(model, prompt, max_new_tokens, ends) for prompt in prompts]


def logits(
    path: Path, prompts: Sequence[Sequence[int]], *, threads: int | None = None, cache: str = "f16"
) -> list[NDArray[np.float32]]:
    """The logits [T, V] behind every token of each prompt; arguments and errors are those of ``generate``.

    Two files agree to the bit only where both are run with the same threads.
    """
    with _loaded(path, max(map(len, prompts), default=0), threads, cache, logits_all=True) as model:
        return [_logits(model, prompt) for prompt in prompts]


def tokenize(path: Path, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts as the file's own tokenizer cuts them, special tokens read as such and none added."""
    with _loaded(path, 0, None, "f16", vocab_only=True) as model:
        return [list(model.tokenize(text.encode(), add_bos=False, special=True)) for text in texts]


def block_count(path: Path) -> int:
    """The number of layers that llama.cpp finds in the file; errors are those of ``generate``."""
    with _loaded(path, 0, None, "f16", vocab_only=True) as model:
        return int(model.metadata[f"{model.metadata['general.architecture']}.block_count"])


def _continued(model: Any, prompt: Sequence[int], most: int, ends: Collection[int]) -> list[int]:
    model.reset()
    found: list[int] = []
    for token in islice(model.generate(list(prompt), temp=0.0, repeat_penalty=1.0, reset=False), most):
        found.append(int(token))
        if token in ends:
            break
    return found


def _logits(model: Any, prompt: Sequence[int]) -> NDArray[np.float32]:
    model.reset()
    model.eval(list(prompt))
    return np.array(model.scores[: len(prompt)], dtype=np.float32)


@contextmanager
def _loaded(
    path: Path,
    room: int,
    threads: int | None,
    cache: str,
    *,
    logits_all: bool = False,
    vocab_only: bool = False,
) -> Iterator[Any]:
    """A model of llama-cpp-python with a context of ``room`` tokens."""
    try:
        from llama_cpp import Llama
    except ImportError:
        raise CompileError(f"GGUF files are run with llama-cpp-python: {INSTALL}") from None
    cores = threads or os.cpu_count() or 1
    try:
        model = Llama(
            model_path=str(path),
            n_ctx=max(room + 1, 16),
            n_batch=_BATCH,
            n_threads=cores,
            n_threads_batch=cores,
            type_k=_CACHES[cache],
            type_v=_CACHES[cache],
            logits_all=logits_all,
            vocab_only=vocab_only,
            verbose=False,
        )
    except (ValueError, OSError) as error:
        raise VerificationError(f"llama.cpp does not load {path}: {error}") from None
    try:
        yield model
    finally:
        model.close()
