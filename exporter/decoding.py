"""Decoding settings: greedy, or those of a caller, never those of the base's generation config."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from transformers import GenerationConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def decoding(*, ends: Collection[int], pad: int, max_new_tokens: int, **sampling: object) -> GenerationConfig:
    """Settings that keep token ids only: one beam, the likeliest token, no penalty, no further way to stop.

    Args:
        ends: ids after which a reply stops; it may have none.
        pad: the id put behind a reply that ended before others of its batch.
        sampling: ``temperature``, ``top_p`` and so on: tokens are drawn; greedily without any.
    """
    return GenerationConfig(
        do_sample=bool(sampling),
        num_beams=1,
        num_return_sequences=1,
        use_cache=True,  # the gates are read off the cache
        eos_token_id=sorted(ends) or None,
        pad_token_id=pad,
        max_new_tokens=max_new_tokens,
        return_dict_in_generate=True,
        **sampling,
    )


@contextmanager
def decoded_by(model: PreTrainedModel, settings: GenerationConfig) -> Iterator[None]:
    """Within, ``settings`` are the model's own too: Transformers takes from those whatever is unset in what it is handed."""
    kept = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = kept
