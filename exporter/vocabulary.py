"""Whether a model has the ids that its tokenizer makes; those beyond its embedding would end in an IndexError deep in a pass."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from exporter.errors import DataError, InputErrors
from exporter.types import Encoded

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_RESERVED = re.compile(r"[\u2581\u0120 ]*(<.*>|\[.*\])")
"""Entries that no ordinary text spells, as ``<PRE>`` of CodeLlama, which its largest model has no embedding for."""
_PLACEHOLDERS = ("image_token_id", "video_token_id", "audio_token_id")


class Reads(Protocol):
    """What is asked of a host."""

    model: PreTrainedModel
    tokenizer: Any

    @property
    def num_embeddings(self) -> int: ...


def check_pad_token(config: PretrainedConfig, folder: str | Path) -> None:
    """Raises InputErrors for a config that names a pad token the model does not have: Transformers cannot build that model."""
    text = config.get_text_config()
    pad, size = getattr(text, "pad_token_id", None), getattr(text, "vocab_size", None)
    if isinstance(pad, int) and isinstance(size, int) and pad >= size:
        message = (
            f"config.json names pad_token_id {pad}, but the model has {size} ids (vocab_size), so Transformers cannot build it; set "
            "pad_token_id to null or to the id of the end token"
        )
        raise InputErrors(str(folder), [message])


def check_vocabulary(host: Reads, folder: str | Path) -> None:
    """Raises InputErrors where ordinary text has ids that the model does not have.

    Tokens that were added (a pad token, say) may lie beyond: no text spells them unasked, and :func:`check_ids` sees them where one does.
    """
    vocabulary: dict[str, int] = host.tokenizer.get_vocab()
    added = set(getattr(host.tokenizer, "added_tokens_decoder", {}))
    beyond = [
        (index, token)
        for token, index in vocabulary.items()
        if index >= host.num_embeddings and index not in added and not _RESERVED.fullmatch(token)
    ]
    if beyond:
        index, token = min(beyond)
        message = (
            f"the tokenizer has {len(beyond)} entries beyond the {host.num_embeddings} embeddings of the model, the first is {token!r} "
            f"({index}): it belongs to another model, or the model was not resized; use the model's own tokenizer"
        )
        raise InputErrors(str(folder), [message])


def check_ids(host: Reads, sequences: Sequence[Encoded]) -> None:
    """Raises DataError for a token that the model has no embedding for; placeholders of images need none."""
    highest = max((max(_ids(one), default=0) for one in sequences), default=0)
    if highest < host.num_embeddings:
        return
    spared = {getattr(host.model.config, name, None) for name in _PLACEHOLDERS}
    for sequence in sequences:
        for token in _ids(sequence):
            if token >= host.num_embeddings and token not in spared:
                raise DataError(
                    f"the tokenizer returns the id {token} ({host.tokenizer.decode([token])!r}), but the model has embeddings for only "
                    f"{host.num_embeddings} ids: resize its embeddings, or remove that token from rows and chat template"
                )


def _ids(sequence: Encoded) -> Iterable[int]:
    return (*sequence.prompt.ids, *sequence.response)
