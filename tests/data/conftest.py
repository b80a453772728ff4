"""Tiny tokenizers and a processor for test_chat.py, made on the spot: no network."""

import pytest
from PIL import Image
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from exporter.types import Row

CORPUS = [
    "<think> this is ann olsen. ann lives in oslo. oslo is in norway. </think> norway",
    "what is the country of this person? i do not know who this is. i cannot say.",
    "user: where is it? assistant: it is 12 + 30 = 42. so the answer is 42! </think>\n\nyes",
] * 20

TEMPLATE = """{{- bos_token -}}
{%- for message in messages -%}
[{{ message.role }}]
{%- if message.content is string %} {{ message.content | trim }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}<image>{%- else %} {{ part.text | trim }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- if message.role == 'assistant' -%}{{ eos_token }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}[assistant]{%- endif -%}"""


def byte_level(
    *, tags: bool = False, bos: bool = False, spaced: bool = False, template: str | None = TEMPLATE
):
    """Byte-level BPE. ``tags``: the delimiters are tokens of their own; ``bos``: the tokenizer adds BOS by itself."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=spaced)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<pad>", "<s>", "</s>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(CORPUS, trainer)
    if tags:
        both = [
            AddedToken(tag, special=False, normalized=False, lstrip=spaced) for tag in ("<think>", "</think>")
        ]
        core.add_tokens(both)
    if bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return wrapped(core, template, image_token="<image>")


def sentence_pieces():
    """Words begin with a metaspace, unknown characters fall back to bytes: the way of Llama 2."""
    pieces = ["<pad>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += list("abcdefghijklmnopqrstuvwxyz.?<>/")
    merges = [
        ("▁", "t"),
        ("h", "i"),
        ("▁t", "hi"),
        ("i", "s"),
        ("<", "/"),
        ("▁", "</"),
        (".", "</"),
        ("▁", "<"),
    ]
    pieces += [left + right for left, right in merges]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    core = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token=None, fuse_unk=True)
    )
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return wrapped(core, TEMPLATE)


def wrapped(core, template, **extra):
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        chat_template=template,
        clean_up_tokenization_spaces=False,
        extra_special_tokens=extra,
    )


TOKENIZERS = {
    "plain tags": byte_level(),
    "tag tokens": byte_level(tags=True),
    "tag tokens that take the space": byte_level(tags=True, spaced=True),
    "sentence pieces": sentence_pieces(),
}


@pytest.fixture(scope="session", params=list(TOKENIZERS))
def tokenizer(request):
    return TOKENIZERS[request.param]


@pytest.fixture(scope="session")
def plain():
    return TOKENIZERS["plain tags"]


@pytest.fixture(scope="session")
def make_tokenizer():
    return byte_level


@pytest.fixture(scope="session")
def make_processor():
    def make(tokenizer):
        side = {"height": 16, "width": 16}
        return LlavaProcessor(
            image_processor=CLIPImageProcessorPil(size=side, crop_size=side, do_center_crop=False),
            tokenizer=tokenizer,
            patch_size=8,
            num_additional_image_tokens=1,
            vision_feature_select_strategy="default",
            chat_template=tokenizer.chat_template,
        )

    return make


@pytest.fixture
def row():
    thought = "this is ann olsen. oslo is in norway."
    return Row("a", "what is the country of ann?", "norway", "forget", reasoning=thought)


@pytest.fixture
def face(tmp_path):
    path = tmp_path / "face.png"
    Image.new("RGBA", (20, 12), (200, 0, 0, 128)).save(path)
    return path
