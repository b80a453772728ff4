"""A header holds no token into which a tokenizer melts the white space behind a prompt."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from exporter.data.headers import generation_headers

TEMPLATE = (
    "{% for m in messages %}{{ '[' + m.role + ']\n' + m.content + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]\n' }}{% endif %}"
)


def tokenizer(merges: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    """Bytes, with some pairs of them melted, as ChatML tokenizers melt line ends."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *("".join(pair) for pair in merges)]
    core = Tokenizer(models.BPE({word: place for place, word in enumerate(words)}, merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    found = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", chat_template=TEMPLATE)
    found.add_special_tokens({"additional_special_tokens": ["[assistant]", "[user]"]})
    return found


@pytest.mark.parametrize("melts", [True, False])
@pytest.mark.parametrize("behind", ["", "\n", "\n\n", " ", "\t", "yes", "\nyes"])
def test_white_space_behind_a_prompt_hides_no_header(behind: str, melts: bool) -> None:
    words = tokenizer([("Ċ", "Ċ")] if melts else [])
    (header,) = generation_headers(words)
    text = words.apply_chat_template(
        [{"role": "user", "content": "who"}], tokenize=False, add_generation_prompt=True
    )
    ids = tuple(words(text + behind, add_special_tokens=False)["input_ids"])
    ends = [place for place in range(len(ids)) if ids[place : place + len(header)] == header]
    assert len(ends) == 1
    assert len(header) == (1 if melts else 2), "the control: a line end that melts with nothing stays"
