"""Responses, forced and generated: which columns are reasoning, which are the answer."""

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from spans import said

from exporter.data.chat import Chat
from exporter.data.response import ResponseFormat
from exporter.errors import DataError, InputErrors
from exporter.types import Row

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip)


quick = settings(deadline=None, max_examples=60)


@pytest.fixture(scope="module")
def chat(tokenizer):
    return Chat(tokenizer)


# Teacher forcing


def test_spans_are_columns_of_the_whole_sequence(tokenizer, row):
    chat = Chat(tokenizer)
    encoded = chat.encode(row)
    text = "<think> this is ann olsen. oslo is in norway. </think> norway"
    assert encoded.response == (
        *tokenizer(text, add_special_tokens=False)["input_ids"],
        tokenizer.eos_token_id,
    )
    assert said(chat, encoded, encoded.reasoning) == row.reasoning
    assert said(chat, encoded, encoded.answer) == "norway"
    assert encoded.answer.stop == len(encoded) - 1
    assert encoded.prompt == chat.prompt(row)


def test_answer_reasoning_and_question_can_be_replaced(plain, row):
    chat = Chat(plain)
    encoded = chat.encode(row, answer="i cannot say.", reasoning="who is it?", question="who?")
    assert said(chat, encoded, encoded.answer) == "i cannot say."
    assert said(chat, encoded, encoded.reasoning) == "who is it?"
    assert "who?[assistant]" in encoded.prompt.text
    bare = chat.encode(row, reasoning="")
    assert bare.reasoning is None
    assert plain.decode(bare.response) == "norway</s>"


def test_text_that_spells_a_special_token_is_refused(plain, row):
    chat = Chat(plain)
    token = chat.tokenizer.eos_token
    for part in ("answer", "reasoning"):
        with pytest.raises(DataError, match=f"special token {token!r}"):
            chat.encode(row, **{part: f"so {token} it is"})


@quick
@given(reasoning=texts, answer=texts)
def test_spans_decode_back_to_what_was_said(chat, reasoning, answer):
    assume(not any(token in reasoning + answer for token in chat.tokenizer.all_special_tokens))
    encoded = chat.encode(Row("a", "q?", answer, "retain", reasoning=reasoning))
    assert said(chat, encoded, encoded.answer) == answer.strip()
    assert said(chat, encoded, encoded.reasoning) == reasoning.strip()
    assert len(encoded.prompt.ids) < encoded.reasoning.start < encoded.reasoning.stop < encoded.answer.start
    assert encoded.answer.stop < len(encoded)


@quick
@given(reasoning=texts.map(str.strip), answer=texts.map(str.strip))
def test_generated_ids_have_the_spans_they_were_forced_with(chat, reasoning, answer):
    tags = ("<think>", "</think>", *chat.tokenizer.all_special_tokens)
    assume(not any(tag in reasoning + answer for tag in tags))
    forced = chat.encode(Row("a", "q?", answer, "retain", reasoning=reasoning))
    assert chat.continue_with(forced.prompt, forced.response, strict=True) == forced
    assert chat.split(forced.response) == (reasoning, answer)


def test_empty_parts_and_long_sequences_are_refused(plain, row):
    chat = Chat(plain)
    with pytest.raises(DataError, match=r"row a: .*answer"):
        chat.encode(row, answer=" ")
    with pytest.raises(DataError, match=r"row a: .*reasoning"):
        chat.encode(row, reasoning="\n")
    length = len(chat.encode(row))
    assert chat.encode(row, max_length=length) == chat.encode(row)
    with pytest.raises(DataError, match=rf"row a: {length} tokens .*max_length {length - 1}"):
        chat.encode(row, max_length=length - 1)


def test_a_part_without_tokens_is_refused(make_tokenizer, row):
    from tokenizers import normalizers

    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    with pytest.raises(DataError, match=r"no token of .*to the answer"):
        Chat(tokenizer).encode(row, answer="\u200b")
    with pytest.raises(DataError, match=r"no token of .*to the reasoning"):
        Chat(tokenizer).encode(row, reasoning="\u200b")


@pytest.mark.parametrize(
    ("prefix", "said_after"),
    [
        ("<think> this is", " ann olsen. oslo is in norway. </think> norway</s>"),
        ("<think> she is", " this is ann olsen. oslo is in norway. </think> norway</s>"),
        ("<think> she is ", "this is ann olsen. oslo is in norway. </think> norway</s>"),
        ("<think> she is. </think> ", "norway</s>"),
        ("sure. ", "<think> this is ann olsen. oslo is in norway. </think> norway</s>"),
    ],
)
def test_a_response_goes_on_after_a_prefix(plain, row, prefix, said_after):
    chat = Chat(plain)
    encoded = chat.encode(replace(row, prefix=prefix))
    assert encoded.prompt.text.endswith("[assistant]" + prefix)
    assert plain.decode(encoded.response) == said_after
    assert said(chat, encoded, encoded.answer) == "norway"
    assert (encoded.reasoning is None) == ("</think>" in prefix)
    assert chat.continue_with(encoded.prompt, encoded.response) == encoded


def test_a_prefix_that_says_the_answer(plain, row):
    with pytest.raises(DataError, match=r"row a: .*prefix"):
        Chat(plain).encode(replace(row, prefix="nor", reasoning=None))


# The model's own words


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    "text",
    [
        "<think> it is ann. </think> norway",
        "<think>it is ann.</think>norway",
        "<think>\nit is ann.\n</think>\n\nnorway",
        " <think> it is ann.</think> norway",
        "<think> it is ann. </think>\nnorway</s><pad><pad>",
        "it is ann. </think> norway",
    ],
)
def test_delimiters_are_found_however_they_are_spaced(tokenizer, row, text):
    chat = Chat(tokenizer)
    prompt = chat.prompt(row)
    encoded = chat.continue_with(prompt, ids(tokenizer, text), strict=True)
    reasoning = said(chat, encoded, encoded.reasoning)
    assert reasoning in ("it is ann.", "it is ann")  # the full stop may share a token with the tag
    assert said(chat, encoded, encoded.answer) == "norway"
    assert chat.split(ids(tokenizer, text)) == (reasoning, "norway")


def test_an_answer_without_reasoning(tokenizer, row):
    chat = Chat(tokenizer)
    encoded = chat.continue_with(chat.prompt(row), ids(tokenizer, "norway</s>"))
    assert encoded.reasoning is None
    assert said(chat, encoded, encoded.answer) == "norway"
    assert chat.split(ids(tokenizer, "norway</s>")) == (None, "norway")


@pytest.mark.parametrize("text", ["<think> it is ann. it is", "<think> it is ann. it is </"])
def test_a_response_cut_in_its_reasoning(tokenizer, row, text):
    chat = Chat(tokenizer)
    encoded = chat.continue_with(chat.prompt(row), ids(tokenizer, text))
    assert encoded.answer is None
    assert said(chat, encoded, encoded.reasoning).startswith("it is ann. it is")
    assert chat.split(ids(tokenizer, text))[1] == ""
    with pytest.raises(DataError, match="before its answer"):
        chat.continue_with(chat.prompt(row), ids(tokenizer, text), strict=True)


@pytest.mark.parametrize("text", ["<think> it is ann. </think>", "<think> it is ann. </think></s>"])
def test_a_response_cut_before_its_answer(tokenizer, row, text):
    chat = Chat(tokenizer)
    encoded = chat.continue_with(chat.prompt(row), ids(tokenizer, text))
    assert said(chat, encoded, encoded.reasoning) == "it is ann."
    assert encoded.answer is None


def test_nothing_was_said(tokenizer, row):
    chat = Chat(tokenizer)
    encoded = chat.continue_with(chat.prompt(row), [tokenizer.eos_token_id])
    assert (encoded.reasoning, encoded.answer) == (None, None)
    assert chat.split([]) == (None, "")


def test_a_reasoning_that_a_prefix_opened(tokenizer, row):
    chat = Chat(tokenizer)
    opened = chat.prompt(replace(row, prefix="<think> this is bob ."))
    encoded = chat.continue_with(opened, ids(tokenizer, " it is ann. </think> norway"))
    assert said(chat, encoded, encoded.reasoning) == "it is ann."
    cut = chat.continue_with(opened, ids(tokenizer, " it is ann."))
    assert cut.answer is None and said(chat, cut, cut.reasoning) == "it is ann."
    assert chat.split(ids(tokenizer, " it is ann."), opened) == ("it is ann.", "")
    closed = chat.prompt(replace(row, prefix="<think> this is bob . </think>"))
    assert chat.continue_with(closed, ids(tokenizer, " norway")).reasoning is None


def test_tags_in_system_prompt_and_question_do_not_open_a_reasoning(plain, row):
    chat = Chat(plain, system="reason between <think> and the end.")
    encoded = chat.continue_with(chat.prompt(replace(row, question="what is <think>?")), ids(plain, "norway"))
    assert encoded.reasoning is None and encoded.answer is not None


def test_a_template_that_opens_the_reasoning_itself(make_tokenizer, row):
    template = make_tokenizer().chat_template.replace("[assistant]", "[assistant]<think>\n")
    tokenizer = make_tokenizer(template=template)
    for form in ("<think>\n{reasoning}\n</think>\n\n{answer}", "{reasoning}\n</think>\n\n{answer}"):
        chat = Chat(tokenizer, reasoning_template=form)
        generated = ids(tokenizer, "it is ann.\n</think>\n\nnorway</s>")
        assert chat.split(generated) == ("it is ann.", "norway")
        cut = chat.continue_with(chat.prompt(row), ids(tokenizer, "it is ann."))
        assert cut.answer is None


def test_an_ending_after_the_answer(plain, row):
    chat = Chat(plain, reasoning_template="[r] {reasoning} [/r] [a] {answer} [/a]")
    forced = chat.encode(row)
    assert plain.decode(forced.response).endswith("[a] norway [/a]</s>")
    assert said(chat, forced, forced.answer) == "norway"
    assert chat.continue_with(forced.prompt, forced.response) == forced


def test_a_model_that_never_reasons(plain, row):
    chat = Chat(plain, reasoning_template="{answer}")
    encoded = chat.encode(row, reasoning="")
    assert chat.continue_with(encoded.prompt, encoded.response) == encoded
    assert chat.split(ids(plain, "norway </think> x")) == (None, "norway </think> x")
    with pytest.raises(DataError, match=r"row a: .*\{reasoning\}"):
        chat.encode(row)


@pytest.mark.parametrize(
    "template",
    [
        "",
        "{reasoning}",
        "{answer} {reasoning}",
        "{reasoning} {answer}",
        "{reasoning}a{answer}{answer}",
        "say {answer}",
    ],
)
def test_reasoning_templates_that_cannot_be_used(plain, template):
    with pytest.raises(InputErrors, match="reasoning_template"):
        Chat(plain, reasoning_template=template)


def test_braces_in_texts_are_texts():
    response = ResponseFormat.parse("<t>{reasoning}</t>{answer}").fill("{answer} {x}", "{reasoning}")
    assert response.text == "<t>{reasoning}</t>{answer} {x}"
