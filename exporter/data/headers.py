"""Generation headers: the tokens by which a chat template hands the turn to the model, and at which gates decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from exporter.data.conversation import ChatTemplate, Message
from exporter.errors import DataError

_ASKED = ("What is the capital?", "tell me who this is", "12 + 7 =", "Name it.\n")
_SAID = "It is so."
_BLANKS = (" ", "\n", "\n\n", "\t", "\r\n", "  ")
"""A prompt that ends in one of these behind its header: a tokenizer may melt it into the header's last token."""


def generation_headers(processor: object) -> tuple[tuple[int, ...], ...]:
    """Token ids of the generation header of a model's chat template, as prompts end in it.

    The header is the template's generation prompt; of a template that has none (``[/INST]`` ends the question itself), what
    all prompts end in. Tokens that change with what stands before or behind are left out.

    Raises:
        DataError: no chat template, or one whose prompts end in no token of their own.
    """
    template = ChatTemplate(processor)
    tokenizer = getattr(processor, "tokenizer", processor)
    texts = [template.render([Message("user", asked)]) for asked in _ASKED]
    shared = _common_suffix([_ids(tokenizer, text) for text in texts])
    if template.generation_prompt:
        own = len(_ids(tokenizer, template.generation_prompt))
        shared = shared[-own:] if own else shared
    stable = _before_answers(tokenizer, texts[0], shared)
    if not stable:
        raise DataError(
            f"prompts of the chat template of {template.name} do not end in a generation header, so the start of an answer cannot be "
            "detected; add a generation prompt to the template, such as '<|assistant|>'"
        )
    return (tuple(stable),)


def _before_answers(tokenizer: object, text: str, header: Sequence[int]) -> list[int]:
    """The tokens of a header that stay whatever the answer begins with.

    A beginning that leaves none is passed over: a tokenizer that cuts at spaces alone glues it to the header.
    """
    whole = _ids(tokenizer, text)
    first = len(whole) - len(header)
    kept = len(header)
    for begun in (_SAID, " " + _SAID, "\n" + _SAID, "<think>", "1", *_BLANKS):
        ids = _ids(tokenizer, text + begun)
        same = next(
            (i for i, (a, b) in enumerate(zip(whole, ids, strict=False)) if a != b), min(len(whole), len(ids))
        )
        if same > first:
            kept = min(kept, same - first)
    return list(header[:kept])


def _common_suffix(sequences: Sequence[Sequence[int]]) -> list[int]:
    shortest = min(sequences, key=len)
    length = next(
        (i for i in range(len(shortest)) if len({ids[-1 - i] for ids in sequences}) > 1), len(shortest)
    )
    return list(shortest[len(shortest) - length :])


def _ids(tokenizer: Any, text: str) -> list[int]:
    return [int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
