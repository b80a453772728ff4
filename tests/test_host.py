"""What the host promises: batches change nothing, generation is greedy, ends are cut, gates come along."""

import json
import re
from contextlib import nullcontext
from dataclasses import replace

import numerals
import pytest
import tiny
import torch

from exporter.data.chat import Chat
from exporter.demo import __file__ as demo
from exporter.errors import DataError, InputErrors
from exporter.host import ModelHost
from exporter.types import Encoded, Row
from steer_modules.attach import steered

SEEING = [family for family in tiny.CONFIGS if tiny.sees(family)]


def tokens(generated):
    return [one.tokens for one in generated]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", *SEEING])
def test_batches_say_what_single_rows_say_in_the_order_given(family, tmp_path):
    host = numerals.host(family)
    asked = numerals.prompts(family, tmp_path)
    single = [host.generate([one], max_new_tokens=6)[0].tokens for one in asked]
    assert len(set(single)) > 1
    for size in (1, 2, 3, 32):
        assert tokens(host.generate(asked, max_new_tokens=6, batch_size=size)) == single
    backwards = host.generate(asked[::-1], max_new_tokens=6, batch_size=2)
    assert tokens(backwards) == single[::-1]


def test_a_prompt_is_continued_as_transformers_does(tmp_path):
    host = numerals.host("llava")
    one = numerals.prompts("llava", tmp_path)[0]
    inputs = host.batch([Encoded(one)], "left")
    said = host.model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert host.generate([one], max_new_tokens=5)[0].tokens == tuple(said[0, len(one.ids) :].tolist())


def test_what_an_image_shows_matters(tmp_path):
    host = numerals.host("llava")
    one = numerals.prompts("llava", tmp_path)[0]
    other = replace(one, images=(numerals.picture(tmp_path / "other.png", 99),))
    states = [
        tiny.block_states(host.model, host.batch([Encoded(p)], "right"), 3)[0, -1] for p in (one, other)
    ]
    assert not torch.allclose(*states)


SETTINGS = {
    "sampling": {"do_sample": True, "temperature": 9.0, "top_k": 0, "min_p": 0.1, "typical_p": 0.5},
    "beams": {"num_beams": 3, "num_return_sequences": 3, "length_penalty": 2.0, "early_stopping": True},
    "repetition": {"repetition_penalty": 1.9, "no_repeat_ngram_size": 1},
    "lengths": {
        "max_new_tokens": 2,
        "max_length": 3,
        "min_length": 40,
        "min_new_tokens": 8,
        "max_time": 1e-9,
    },
    "ends": {"stop_strings": ["5"], "forced_eos_token_id": 2, "exponential_decay_length_penalty": (1, 9.0)},
    "begins": {"forced_bos_token_id": 7, "begin_suppress_tokens": list(range(3, 60))},
    "words": {"bad_words_ids": [[n] for n in range(3, 60)], "suppress_tokens": list(range(3, 60))},
    "bias": {"sequence_bias": [[[n], -50.0] for n in range(3, 60)], "renormalize_logits": True},
    "guidance": {"guidance_scale": 3.0},
    "watermark": {"watermarking_config": {"bias": 40.0, "greenlist_ratio": 0.25}},
    "lookup": {"prompt_lookup_num_tokens": 3},
    "assistant": {"assistant_early_exit": 1, "num_assistant_tokens": 3, "is_assistant": True},
    "hybrid cache": {"cache_implementation": "hybrid"},
    "static cache": {"cache_implementation": "static"},
    "no cache": {"use_cache": False, "return_dict_in_generate": False, "output_attentions": True},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4},
    "dola": {"dola_layers": "low"},
}
"""Of a base's generation_config.json; none may move a reply that is promised to be plainly greedy."""


@pytest.mark.parametrize("steers", [False, True])
@pytest.mark.parametrize("kind", SETTINGS)
def test_greedy_whatever_the_generation_config_says(kind, steers, tmp_path):
    host = numerals.host()
    host.processor.eos_token_id = None
    asked = numerals.prompts("llama", tmp_path)
    fires, stays = (host.batch([Encoded(one)], "left") for one in asked[:2])
    program = tiny.program(host.model, [tiny.gate_between(host.model, fires, stays)], [tiny.turn(2)])
    with steered(host.model, program) if steers else nullcontext():
        greedy = host.generate(asked, max_new_tokens=8)
        kept = host.model.generation_config
        for name, value in SETTINGS[kind].items():
            setattr(kept, name, value)
        before = kept.to_dict()
        assert host.generate(asked, max_new_tokens=8) == greedy
        heard = []
        assert host.stream(asked[0], heard.append, max_new_tokens=8) == greedy[0]
        assert tuple(heard) == greedy[0].tokens
    assert host.model.generation_config is kept
    assert kept.to_dict() == before


def test_settings_of_a_base_on_disk_move_nothing(tmp_path):
    """Read from the folder, where old bases keep such settings in config.json too."""
    host = numerals.host()
    asked = numerals.prompts("llama", tmp_path)
    greedy = host.generate(asked, max_new_tokens=8)
    told = {"repetition_penalty": 1.9, "no_repeat_ngram_size": 1, "stop_strings": ["5"], "max_length": 3}
    for place in ("generation_config.json", "config.json"):
        folder = tmp_path / place.split(".")[0]
        host.model.save_pretrained(folder)
        (folder / "generation_config.json").unlink()
        before = (
            json.loads((folder / place).read_text()) if place == "config.json" else {"eos_token_id": None}
        )
        (folder / place).write_text(json.dumps({**before, **told}))
        loaded = ModelHost.load(folder, processor=host.processor)
        assert loaded.model.generation_config.repetition_penalty == 1.9
        assert tokens(loaded.generate(asked, max_new_tokens=8)) == tokens(greedy)


def test_sampling_is_what_is_asked_for_and_no_more(tmp_path):
    host = numerals.host()
    (one, *_) = numerals.prompts("llama", tmp_path)
    choice = {"temperature": 0.8, "top_p": 0.9, "top_k": 0}
    torch.manual_seed(3)
    plain = host.stream(one, lambda _: None, max_new_tokens=8, **choice)
    host.model.generation_config.update(min_p=0.9, repetition_penalty=1.9, typical_p=0.1, num_beams=2)
    torch.manual_seed(3)
    assert host.stream(one, lambda _: None, max_new_tokens=8, **choice) == plain


@pytest.mark.parametrize("many", [False, True])
def test_tokens_end_with_the_first_end_id(many, tmp_path):
    host = numerals.host()
    host.processor.eos_token_id = None
    asked = numerals.prompts("llama", tmp_path)
    free = tokens(host.generate(asked, max_new_tokens=8))
    ends = {free[0][2], free[1][5]} if many else {free[0][2]}
    host.model.generation_config.eos_token_id = sorted(ends) if many else free[0][2]
    assert host.end_ids == ends
    for cut, whole in zip(tokens(host.generate(asked, max_new_tokens=8)), free, strict=True):
        stop = next((i + 1 for i, token in enumerate(whole) if token in ends), len(whole))
        assert cut == whole[:stop]


def test_the_tokenizers_end_counts_where_the_model_names_none(tmp_path):
    host = numerals.host()
    asked = numerals.prompts("llama", tmp_path)
    free = tokens(host.generate(asked, max_new_tokens=8))
    host.processor.eos_token_id = free[2][1]
    assert host.generate(asked, max_new_tokens=8)[2].tokens == free[2][: free[2].index(free[2][1]) + 1]


def test_nothing_asked_nothing_said():
    assert numerals.host().generate([], max_new_tokens=3) == []


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_stands_on_the_side_asked_for(side):
    host = numerals.host()
    rows = [Encoded(numerals.prompt("5 6"), (7,)), Encoded(numerals.prompt("8"))]
    found = host.batch(rows, side)
    ids, mask = ([[5, 6, 7], [8, 0, 0]], [[1, 1, 1], [1, 0, 0]])
    if side == "left":
        ids, mask = ([[5, 6, 7], [0, 0, 8]], [[1, 1, 1], [0, 0, 1]])
    assert found["input_ids"].tolist() == ids
    assert found["attention_mask"].tolist() == mask
    assert set(found) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize("side", ["left", "right"])
def test_further_keys_of_the_processor_are_placed_with_their_tokens(side, tmp_path):
    host = numerals.host("qwen3_vl")
    image, text = numerals.prompts("qwen3_vl", tmp_path)[:2]
    found = host.batch([Encoded(text), Encoded(image, (5, 6))], side)
    marked = found["mm_token_type_ids"]
    assert torch.equal(marked == 1, found["input_ids"] == tiny.IMAGE)
    assert marked.shape == found["input_ids"].shape
    assert found["pixel_values"].shape[0] == 16


def test_images_of_a_batch_lie_in_row_order(tmp_path):
    host = numerals.host("llava")
    asked = [Encoded(one) for one in numerals.prompts("llava", tmp_path)]
    whole = host.batch(asked, "left")["pixel_values"]
    assert torch.equal(
        whole, torch.cat([host.batch([one], "left")["pixel_values"] for one in asked if one.prompt.images])
    )


def test_images_of_several_sizes_are_padded():
    from exporter.prompt_batcher import _stack

    small, large = torch.ones(1, 1, 3, 2, 4), torch.ones(1, 2, 3, 4, 2)
    found = _stack([small, large])
    assert found.shape == (2, 2, 3, 4, 4)
    assert torch.equal(found[0, :1, :, :2, :4], small[0])
    assert found.sum() == small.sum() + large.sum()


def test_a_prompt_of_another_processor_is_refused(tmp_path):
    host = numerals.host("llava")
    one = numerals.prompts("llava", tmp_path)[0]
    with pytest.raises(DataError, match="ids for a prompt"):
        host.generate([replace(one, ids=one.ids[:-1])], max_new_tokens=1)


@pytest.mark.parametrize("content", [None, b"no image", b"\x89PNG\r\n\x1a\n"])
def test_an_unreadable_image_is_named(content, tmp_path):
    one = numerals.prompts("llava", tmp_path)[0]
    path = one.images[0]
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=path.name):
        numerals.host("llava").generate([one], max_new_tokens=1)


@pytest.mark.parametrize("family", ["llama", "llava"])
def test_gates_of_a_steered_model_come_along(family, tmp_path):
    host = numerals.host(family)
    asked = numerals.prompts(family, tmp_path)
    fires, stays = (host.batch([Encoded(one)], "left") for one in asked[:2])
    gate = tiny.gate_between(host.model, fires, stays)
    program = tiny.program(host.model, [gate], [tiny.turn(2), tiny.turn(3, seed=9)])
    base = host.generate(asked[:2], max_new_tokens=6)
    host.model.generation_config.use_cache = False
    with steered(host.model, program):
        single = [host.generate([one], max_new_tokens=6)[0] for one in asked]
        together = host.generate(asked, max_new_tokens=6, batch_size=3)
    assert together == single
    assert [one.gates for one in single[:2]] == [{"topic": 1.0}, {"topic": 0.0}]
    assert single[0].tokens != base[0].tokens
    assert single[1].tokens == base[1].tokens
    again = host.generate(asked[:2], max_new_tokens=6)
    assert again == base
    assert again[0].gates is None


@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_every_family_tells_its_shape(family):
    host = numerals.host(family)
    assert (host.num_layers, host.hidden_size) == (tiny.LAYERS, tiny.D)
    assert host.architecture == tiny.CONFIGS[family][0]
    assert host.model_type == family
    assert host.device.type == "cpu"
    assert host.dtype == torch.float32


def test_the_demo_model_answers(tmp_path):
    from pathlib import Path

    folder = Path(demo).parent / "model"
    if not folder.is_dir():
        pytest.skip("the demo model is not there")
    host = ModelHost.load(folder, dtype="bfloat16")
    assert host.dtype == torch.bfloat16
    rows = [json.loads(line) for line in (folder.parent / "rows" / "test.jsonl").read_text().splitlines()]
    known = [row for row in rows if row["role"] == "retain" and "history" not in row and "prefix" not in row]
    chosen = [
        *[row for row in known if "image" in row][:4],
        *[row for row in known if "image" not in row][:4],
    ]
    chat = Chat(host.processor)
    asked = []
    for row in chosen:
        image = folder.parent / "rows" / row["image"] if "image" in row else None
        asked.append(
            chat.prompt(Row(row["id"], row["question"], row["answer"], "retain", image, row["reasoning"]))
        )
    said = host.generate(asked, max_new_tokens=40, batch_size=5)
    right = [chat.split(one.tokens)[1] == row["answer"] for one, row in zip(said, chosen, strict=True)]
    assert sum(right) >= 7


def test_what_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(InputErrors, match=re.escape(str(tmp_path))):
        ModelHost.load(tmp_path / "absent")
    numerals.host().model.config.save_pretrained(tmp_path)
    with pytest.raises(InputErrors, match="llama"):
        ModelHost.load(tmp_path)
