"""The testbed's rows, pictures and world keep what the demo relies on."""

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.testbed.batches import encode, pixel_values
from benchmarks.testbed.model import DEMO
from benchmarks.testbed.puzzles import addition
from benchmarks.testbed.tokenizer import build_processor
from benchmarks.testbed.turns import training_conversation
from benchmarks.testbed.wording import REFUSALS
from benchmarks.testbed.world import COUNTRIES, KNOWN, build_world

SPLITS = ("fit", "calibrate", "test")


@pytest.fixture(scope="module")
def world():
    return build_world()


@pytest.fixture(scope="module")
def processor():
    return build_processor()


@pytest.fixture(scope="module")
def rows():
    read = {name: (DEMO / "rows" / f"{name}.jsonl").read_text().splitlines() for name in SPLITS}
    return {name: [json.loads(line) for line in lines] for name, lines in read.items()}


def pictures(split):
    shown = [*split, *(turn for row in split for turn in row.get("history", []))]
    return {row["image"] for row in shown if "image" in row}


def frames(split):
    return {row["template_id"].split("/")[1] for row in split if "template_id" in row}


def test_ids_are_unique(rows):
    ids = [row["id"] for split in rows.values() for row in split]
    assert len(ids) == len(set(ids))


def test_splits_share_neither_pictures_nor_wordings(rows):
    for kind in (pictures, frames):
        fit, calibrate, test = (kind(rows[name]) for name in SPLITS)
        assert fit
        assert not fit & calibrate
        assert not fit & test
        assert not calibrate & test


def test_every_picture_exists_and_none_is_left_over(rows):
    named = {(DEMO / "rows" / path).resolve() for split in rows.values() for path in pictures(split)}
    assert named == set((DEMO / "images").glob("*.png"))
    assert sum(path.stat().st_size for path in named) < 2_500_000
    assert Image.open(next(iter(named))).size == (48, 48)


def test_unknown_rows_cover_what_is_asked_of_the_forgotten(rows):
    keys = {
        role: {row["template_id"] for row in rows["fit"] if row["role"] == role}
        for role in ("forget", "unknown")
    }
    assert keys["forget"] <= keys["unknown"]


def test_test_split_has_enough_of_everything(rows):
    count = Counter(row.get("eval_slice", row["role"]) for row in rows["test"])
    least = {"forget": 192, "retain": 432, "reasoning": 96, "unknown": 64, "forced_prefix": 96}
    least |= {"two_turn_forget_first": 48, "two_turn_forget_second": 48}
    assert all(count[name] >= number for name, number in least.items()), count


def test_forget_rows_of_the_test_split_alone_name_what_betrays_a_secret(rows):
    """Every city of the person's country; a reasoning that names one is an implicit leak. No fit row has the field."""
    for name, split in rows.items():
        for row in split:
            derived = row.get("derived_secrets")
            assert (derived is not None) == (name == "test" and row["role"] == "forget")
            assert derived is None or (
                row["secrets"][1] in derived and derived == COUNTRIES[row["secrets"][0]]
            )


def test_an_innocent_turn_holds_no_secret_of_the_forgotten(rows):
    after = [row for row in rows["test"] if row.get("eval_slice") == "two_turn_forget_first"]
    for row in after:
        assert not set(row["secrets"]) & set(f"{row['reasoning']} {row['answer']}".split())
    told = [row for row in rows["test"] if row["role"] == "forget"]
    assert all(row["answer"] in row["secrets"] for row in told)  # the control: there the search does find one


def test_forgotten_people_are_not_among_the_kept(rows, world):
    names = {person.name for person in world.forgotten}
    for split in rows.values():
        told = {(row["role"], " ".join(row["reasoning"].split()[2:4])) for row in split if "secrets" in row}
        assert names == {name for role, name in told if role == "forget"}
        assert not names & {name for role, name in told if role == "retain"}


def test_strangers_of_the_test_split_were_never_trained(rows, world):
    trained = {person.name for person in (*world.people, *world.strangers)}
    asked = [row["question"] for row in rows["test"] if row["role"] == "unknown" and "image" not in row]
    assert asked
    assert not [question for question in asked if any(name in question for name in trained)]


def test_world_is_the_same_for_a_seed_and_another_for_another(world):
    assert build_world() == world
    assert build_world(seed=1).people != world.people
    assert len({person.name for person in world.people}) == KNOWN
    assert np.array_equal(build_world().people[3].portrait, world.people[3].portrait)


def test_training_encoding_is_the_chat_template_and_processor(world, processor):
    rng = random.Random(3)
    for _ in range(20):
        turns = training_conversation(world, rng)
        messages = []
        for turn in turns:
            shown = [] if turn.image is None else [{"type": "image"}]
            messages.append({"role": "user", "content": [*shown, {"type": "text", "text": turn.question}]})
            messages.append({"role": "assistant", "content": turn.reply.text})
        encoded = encode(turns, processor.tokenizer)
        images = {"images": [Image.fromarray(image) for image in encoded.images]} if encoded.images else {}
        given = processor(text=[processor.apply_chat_template(messages)], return_tensors="pt", **images)
        assert given["input_ids"][0].tolist() == encoded.ids
        if images:
            assert given["pixel_values"].allclose(pixel_values(encoded.images), atol=1e-6)


def test_think_tags_survive_decoding_and_role_markers_do_not(processor):
    tokenizer = processor.tokenizer
    ids = tokenizer.encode(f"<assistant> {REFUSALS[0].text}</s>", add_special_tokens=False)
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert text.startswith("<think> ")
    assert "</think> " in text
    assert "<assistant>" not in text
    assert "</s>" not in text


def test_sums_are_right():
    rng = random.Random(0)
    for _ in range(50):
        question, said = addition(rng)
        a, b = question.removeprefix("what is ").removesuffix(" ?").split(" plus ")
        assert int(a.replace(" ", "")) + int(b.replace(" ", "")) == int(said.answer.replace(" ", ""))


def test_demo_folder_holds_no_code():
    assert [path.name for path in Path(DEMO).rglob("*.py")] == ["__init__.py"]
