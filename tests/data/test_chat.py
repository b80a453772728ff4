"""Prompts of conversations, and the chat templates that cannot make them."""

from dataclasses import replace

import pytest
from PIL import Image
from spans import said

from exporter.data.chat import Chat
from exporter.errors import DataError
from exporter.types import Turn

# Prompts


def test_a_prompt_is_reproduced_from_its_text(tokenizer, row):
    chat = Chat(tokenizer)
    prompt = chat.prompt(row)
    assert prompt.text == "<s>[user] what is the country of ann?[assistant]"
    assert list(prompt.ids) == tokenizer(text=[prompt.text])["input_ids"][0]
    assert prompt.ids == tuple(chat.tokenize(prompt.text)["input_ids"][0])
    assert chat.prompt(row, question="who is it?").text == "<s>[user] who is it?[assistant]"


def test_bos_stands_once(make_tokenizer, row):
    """The template writes BOS and the tokenizer would add another: the text then goes without."""
    tokenizer = make_tokenizer(bos=True)
    prompt = Chat(tokenizer).prompt(row)
    assert not prompt.text.startswith("<s>")
    assert prompt.ids.count(tokenizer.bos_token_id) == 1
    assert list(prompt.ids) == tokenizer(text=[prompt.text])["input_ids"][0]
    assert tokenizer("<s>" + prompt.text)["input_ids"].count(tokenizer.bos_token_id) == 2
    tokenizer.chat_template = tokenizer.chat_template.replace("{{- bos_token -}}", "")
    assert Chat(tokenizer).prompt(row) == prompt


def test_system_history_and_prefix(plain, row):
    history = (Turn("hello?", "hi."), Turn("and?", "yes.", "they ask."))
    chat = Chat(plain, system="be kind.")
    prompt = chat.prompt(replace(row, history=history, prefix="<think> this is ann ."))
    assert prompt.text == (
        "<s>[system] be kind.[user] hello?[assistant] hi.</s>[user] and?[assistant] <think> they ask. </think> yes.</s>"
        "[user] what is the country of ann?[assistant]<think> this is ann ."
    )
    assert list(prompt.ids) == plain(text=[prompt.text])["input_ids"][0]


def test_an_earlier_turn_without_an_answer_is_refused(plain, row):
    with pytest.raises(DataError, match="row a: turn 2"):
        Chat(plain).prompt(replace(row, history=(Turn("hello?", "hi."), Turn("and?"))))


@pytest.mark.parametrize("tags", [False, True])
def test_images_expand_as_the_processor_expands_them(make_tokenizer, make_processor, row, face, tags):
    processor = make_processor(make_tokenizer(tags=tags))
    chat = Chat(processor)
    shown = replace(row, image=face, history=(Turn("and this?", "bob.", image=face),))
    prompt = chat.prompt(shown)
    assert prompt.images == (face, face)
    assert prompt.text.startswith("<s>[user]<image> and this?[assistant] bob.</s>[user]<image> what")
    image = Image.open(face).convert("RGB")
    assert list(prompt.ids) == processor(text=[prompt.text], images=[image, image])["input_ids"][0]
    assert prompt.ids.count(processor.image_token_id) == 2 * 4
    assert chat.tokenize(prompt.text, prompt.images, return_tensors="pt")["pixel_values"].shape == (
        2,
        3,
        16,
        16,
    )
    encoded = chat.encode(shown)
    assert said(chat, encoded, encoded.answer) == "norway"
    asked = chat.prompt(row)
    assert asked.text == "<s>[user] what is the country of ann?[assistant]"
    assert list(asked.ids) == processor(text=[asked.text])["input_ids"][0]


def test_images_that_cannot_be_used(make_tokenizer, make_processor, plain, row, face, tmp_path):
    with pytest.raises(DataError, match=r"row a: .*image"):
        Chat(plain).prompt(replace(row, image=face))
    chat = Chat(make_processor(make_tokenizer()))
    with pytest.raises(DataError, match=r"row a: image .*none\.png"):
        chat.prompt(replace(row, image=tmp_path / "none.png"))
    (tmp_path / "cut.png").write_bytes(face.read_bytes()[:60])
    with pytest.raises(DataError, match=r"cut\.png"):
        chat.prompt(replace(row, image=tmp_path / "cut.png"))
    blind = "{% for m in messages %}[{{ m.role }}]{{ m.content if m.content is string else m.content[-1].text }}{% endfor %}"
    with pytest.raises(DataError, match="nothing for an image"):
        Chat(make_processor(make_tokenizer(template=blind))).prompt(replace(row, image=face))


# Chat templates


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "chat_template.jinja"),
        ("{% for m in messages %}[{{ m.role }}]{% endfor %}", "user's text"),
        ("{{ raise_exception('no') }}", "conversation: no"),
    ],
)
def test_chat_templates_that_cannot_be_used(make_tokenizer, template, message):
    with pytest.raises(DataError, match=message):
        Chat(make_tokenizer(template=template))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}",
            "drops the system prompt 'be kind.'",
        ),
        (
            "{{ raise_exception('no system') if messages[0].role == 'system' }}{{ messages[-1].content }}",
            "conversation: no system; .*system prompt",
        ),
    ],
)
def test_a_system_prompt_that_would_be_lost(make_tokenizer, row, template, message):
    tokenizer = make_tokenizer(template=template)
    assert Chat(tokenizer).prompt(row).text == row.question
    with pytest.raises(DataError, match=message):
        Chat(tokenizer, system="be kind.")


def test_a_template_that_takes_lists_only(make_tokenizer, row):
    template = "{% for m in messages %}[{{ m.role }}]{% for p in m.content | selectattr('type', 'equalto', 'text') %}{{ p.text }}{% endfor %}{% endfor %}"
    assert Chat(make_tokenizer(template=template)).prompt(row).text == f"[user]{row.question}"


def test_a_template_that_drops_a_question(make_tokenizer, row):
    tokenizer = make_tokenizer(template="{{ messages[-1].content }}")
    with pytest.raises(DataError, match=r"question 'hello\?'"):
        Chat(tokenizer).prompt(replace(row, history=(Turn("hello?", "hi."),)))


def test_a_tokenizer_without_offsets(plain):
    class Slow:
        is_fast = False
        chat_template = plain.chat_template

    with pytest.raises(DataError, match=r"Slow.*tokenizer.json"):
        Chat(Slow())


def test_a_tokenizer_that_ends_every_text(make_tokenizer):
    from tokenizers import processors

    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 2)]
    )
    with pytest.raises(DataError, match=r"'</s>'.*add_eos_token = False"):
        Chat(tokenizer)
