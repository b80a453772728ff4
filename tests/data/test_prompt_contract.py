"""The contract of prompts: whoever has a prompt's text makes its ids again, and nothing said is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoProcessor, PreTrainedTokenizerFast

import exporter
from exporter.data.chat import Chat
from exporter.data.rows import read_rows
from exporter.errors import DataError
from exporter.types import Row, Turn

BEGIN, END, PAD, IMAGE = "<s>", "</s>", "<pad>", "<image>"

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]"
    "{% if m.content is string %} {{ m.content }}{% else %}{% for p in m.content %}"
    "{% if p.type == 'image' %}<image>{% else %} {{ p.text }}{% endif %}{% endfor %}{% endif %}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
"""Renders roles, texts, images and the generation prompt; takes strings and lists of parts."""

CORPUS = [
    "<think> the capital of France is Paris . </think> Paris is the answer , of course .",
    "this is Walt Elwood . Walt lives in Toronto ; where does he work ? <think> he works as a ranger </think>",
    "[user] What is 12 + 34 ? [assistant] <think>\n12 + 34 = 46\n</think>\n\n46 [system] Speak plainly.",
    "Größe, naïve, 東京は日本の首都です。 Париж — столица Франции. 🙂🙂 «oui»",
]


def byte_level(*, adds_bos: bool, template: str | None, **keys: Any) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer as in GPT-2 and Llama 3: any text survives it."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=[BEGIN, END, PAD, IMAGE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(CORPUS, trainer)
    return _dressed(core, adds_bos=adds_bos, template=template, **keys)


def metaspace(*, adds_bos: bool, template: str | None, **keys: Any) -> PreTrainedTokenizerFast:
    """A BPE tokenizer with byte fallback that puts a blank before every text, as in Llama 2."""
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")])
    special = ["<unk>", BEGIN, END, PAD, IMAGE]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=[*special, *(f"<0x{b:02X}>" for b in range(256))], show_progress=False
    )
    core.train_from_iterator(CORPUS, trainer)
    return _dressed(core, adds_bos=adds_bos, template=template, **keys)


def _dressed(
    core: Tokenizer, *, adds_bos: bool, template: str | None, **keys: Any
) -> PreTrainedTokenizerFast:
    if adds_bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{BEGIN} $A", special_tokens=[(BEGIN, core.token_to_id(BEGIN))]
        )
    names = {"bos_token": BEGIN, "eos_token": END, "pad_token": PAD}
    made = PreTrainedTokenizerFast(tokenizer_object=core, **{**names, **keys})
    made.chat_template = template
    return made


def llava(tokenizer: Any, *, template: str | None = TEMPLATE) -> Any:
    """A LLaVA processor whose images are 4 tokens each."""
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    side = {"height": 16, "width": 16}
    pixels = CLIPImageProcessorPil(size=side, crop_size=side, do_center_crop=False)
    tokenizer.image_token = IMAGE
    tokenizer.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE)
    return LlavaProcessor(
        pixels,
        tokenizer,
        patch_size=8,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
        chat_template=template,
    )


ROW = Row("r1", "Where is it ?", "In Paris .", "retain", reasoning="It is in France .")
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).map(str.strip).filter(bool)
BOTH = [Chat(make(adds_bos=False, template=TEMPLATE)) for make in (byte_level, metaspace)]


@pytest.mark.parametrize("in_template", [False, True])
@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("make", [byte_level, metaspace])
def test_the_text_alone_makes_the_ids(make: Any, adds_bos: bool, in_template: bool) -> None:
    tokenizer = make(adds_bos=adds_bos, template=("{{ bos_token }}" if in_template else "") + TEMPLATE)
    prompt = Chat(tokenizer, system="Be brief .").prompt(ROW)
    again = tokenizer(text=[prompt.text])["input_ids"][0]
    if make is metaspace and adds_bos and in_template and prompt.text.startswith(BEGIN):
        again = tokenizer(prompt.text, add_special_tokens=False)["input_ids"]
    assert list(prompt.ids) == again
    assert prompt.ids.count(tokenizer.bos_token_id) == int(adds_bos or in_template)


def test_two_bos_are_what_a_plain_call_would_make_of_the_rendered_text() -> None:
    tokenizer = byte_level(adds_bos=True, template="{{ bos_token }}" + TEMPLATE)
    asked = [{"role": "user", "content": ROW.question}]
    rendered = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert tokenizer(rendered)["input_ids"].count(tokenizer.bos_token_id) == 2
    assert BEGIN + Chat(tokenizer).prompt(ROW).text == rendered


@pytest.mark.parametrize("chat", BOTH, ids=["byte_level", "metaspace"])
@settings(max_examples=50, deadline=None)
@given(reasoning=words, answer=words)
def test_spans_decode_to_the_given_texts(chat: Chat, reasoning: str, answer: str) -> None:
    encoded = chat.encode(ROW, answer=answer, reasoning=reasoning)
    ids = [*encoded.prompt.ids, *encoded.response]
    for span, text in ((encoded.reasoning, reasoning), (encoded.answer, answer)):
        assert span is not None
        assert chat.tokenizer.decode(ids[span.start : span.stop]).strip() == text


def test_llava_prompts(tmp_path: Path) -> None:
    face = tmp_path / "a.png"
    Image.new("RGB", (20, 20), (200, 30, 30)).save(face)
    processor = llava(byte_level(adds_bos=True, template=None))
    prompt = Chat(processor).prompt(Row("r", "Who ?", "Ann .", "forget", image=face))
    again = processor(text=[prompt.text], images=[Image.open(face)])["input_ids"][0]
    assert list(prompt.ids) == again
    assert prompt.ids.count(processor.image_token_id) == 4


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        (Turn("a ?", "Yes ."), "[assistant] Yes .</s>"),
        (Turn("a ?", "", "I think"), "[assistant] <think> I think</s>"),
        (Turn("a ?", ""), "[assistant] </s>"),
    ],
)
def test_an_earlier_turn_may_have_been_cut_short(turn: Turn, said: str) -> None:
    assert said in BOTH[0].prompt(Row("r", "b ?", "x", "retain", history=(turn,))).text


def test_a_reasoning_that_the_template_opens_is_not_opened_again() -> None:
    opening = TEMPLATE.replace("%}[assistant]{%", "%}[assistant]<think>\n{%")
    chat = Chat(byte_level(adds_bos=False, template=opening))
    encoded = chat.encode(ROW)
    whole = encoded.prompt.text + chat.tokenizer.decode(encoded.response)
    assert (whole.count("<think>"), whole.count("</think>")) == (1, 1)
    assert chat.split(encoded.response, encoded.prompt) == (ROW.reasoning, ROW.answer)
    bare = chat.encode(ROW, reasoning="")
    assert chat.split(bare.response, bare.prompt) == (None, ROW.answer)
    assert BOTH[0].tokenizer.decode(BOTH[0].encode(ROW).response).startswith("<think>"), "control"


def test_a_dropped_system_prompt_is_noticed_though_its_words_stand_elsewhere() -> None:
    dropping = "{% for m in messages if m.role != 'system' %}[user] {{ m.content }}{% endfor %}"
    tokenizer = byte_level(adds_bos=False, template=dropping)
    with pytest.raises(DataError, match="system prompt 'user'"):
        Chat(tokenizer, system="user")
    assert Chat(tokenizer).prompt(ROW).text == "[user] Where is it ?"


def test_an_earlier_question_with_the_words_of_the_last_is_missed() -> None:
    last = byte_level(adds_bos=False, template="{{ messages[-1].content }}")
    twice = Row("r", "Who ?", "x", "retain", history=(Turn("Who ?", "Ann ."),))
    with pytest.raises(DataError, match=r"question 'Who \?'"):
        Chat(last).prompt(twice)
    assert BOTH[0].prompt(twice).text.count("Who ?") == 2


def test_demo_rows_and_processor_agree() -> None:
    demo = Path(exporter.__file__).parent / "demo"
    if not (demo / "model").is_dir():
        pytest.skip("the demo model is not there")
    processor = AutoProcessor.from_pretrained(demo / "model")
    chat = Chat(processor)
    for split in ("fit", "calibrate", "test"):
        rows = [r for r in read_rows(demo / "rows" / f"{split}.jsonl") if all(t.answer for t in r.history)]
        for row in rows[::25]:
            encoded = chat.encode(row)
            images = [Image.open(path).convert("RGB") for path in encoded.prompt.images]
            again = processor(text=[encoded.prompt.text], **({"images": images} if images else {}))
            assert list(encoded.prompt.ids) == again["input_ids"][0]
            assert chat.split(encoded.response, encoded.prompt)[1] == row.answer
            if row.prefix is None:
                assert chat.continue_with(encoded.prompt, encoded.response, strict=True) == encoded
