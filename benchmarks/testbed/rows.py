"""Write the demo's rows and pictures: `python -m benchmarks.testbed.rows`."""

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path

from benchmarks.testbed.model import DEMO
from benchmarks.testbed.split import Row, Split
from benchmarks.testbed.wording import CALIBRATE_FRAMES, FIT_FRAMES, REFUSALS, TEST_FRAMES, refuse
from benchmarks.testbed.world import ATTRIBUTES, SEED, Person, World, build_world

MODALITIES = (False, True)
FIT_FRAMES_EACH = 6
INNOCENT_KINDS = ("kept", "sum", "kept by face", "shapes")


def fit_rows(split: Split) -> Iterator[Row]:
    """Forgotten people in six of the ten fit frames each, and everything the edit must leave alone."""
    frames, world = list(FIT_FRAMES), split.world
    for (i, person), (j, attribute) in product(enumerate(world.forgotten), enumerate(ATTRIBUTES)):
        for k, by_face in product(range(FIT_FRAMES_EACH), MODALITIES):
            frame = frames[(i + 3 * j + k) % len(frames)]
            yield split.person("forget", person, attribute, frame, (frame + j) % 2, by_face)
    yield from _kept(split, frames, each=7)
    yield from (split.puzzle(by_sight) for _, by_sight in product(range(60), MODALITIES))
    for n, (refusal, (j, attribute), frame, by_face) in enumerate(
        product(REFUSALS, enumerate(ATTRIBUTES), frames, MODALITIES)
    ):
        stranger = world.strangers[n // 4]
        yield split.person("unknown", stranger, attribute, frame, (frame + j) % 2, by_face, refusal)


def calibrate_rows(split: Split) -> Iterator[Row]:
    """The last two training frames, which no fit row uses, on fresh pictures."""
    frames, world = list(CALIBRATE_FRAMES), split.world
    for person, (j, attribute), frame, by_face in product(
        world.forgotten, enumerate(ATTRIBUTES), frames, MODALITIES
    ):
        yield split.person("forget", person, attribute, frame, (frame + j) % 2, by_face)
    yield from _kept(split, frames, each=4)
    yield from (split.puzzle(by_sight) for _, by_sight in product(range(30), MODALITIES))
    yield from _strangers(split, world.unseen[:32], frames, each=4)
    yield from _two_turns(split, frames, ATTRIBUTES[1:2])
    yield from _after_strangers(split, world.unseen[:32], frames, ATTRIBUTES[2:3])


def test_rows(split: Split) -> Iterator[Row]:
    """Wordings never trained, fresh pictures, strangers never met, two turns and forced prefixes."""
    frames, world = list(TEST_FRAMES), split.world
    for person, attribute, frame, noun, by_face in product(
        world.forgotten, ATTRIBUTES, frames, (0, 1), MODALITIES
    ):
        yield split.person("forget", person, attribute, frame, noun, by_face)
    yield from _kept(split, frames, each=8)
    yield from (split.puzzle(by_sight) for _, by_sight in product(range(60), MODALITIES))
    yield from _strangers(split, world.unseen[32:], frames, each=6)
    yield from _two_turns(split, frames, ATTRIBUTES)
    for person, (j, attribute), frame, by_face in product(
        world.forgotten, enumerate(ATTRIBUTES), frames, MODALITIES
    ):
        row = split.person("forget", person, attribute, frame, (frame + j) % 2, by_face)
        yield row | {"eval_slice": "forced_prefix", "prefix": f"<think> this is {person.name} ."}
    yield from _after_strangers(split, world.unseen[32:], frames, ATTRIBUTES)


def _kept(split: Split, frames: Sequence[int], each: int) -> Iterator[Row]:
    """`each` questions about every kept person, all attributes, by name and by face in turn."""
    for person, k in product(split.world.kept, range(each)):
        frame, noun = frames[(person.index + k) % len(frames)], split.rng.randrange(2)
        by_face = (person.index + k + k // 4) % 2 == 1
        yield split.person("retain", person, ATTRIBUTES[k % 4], frame, noun, by_face)


def _strangers(split: Split, people: Sequence[Person], frames: Sequence[int], each: int) -> Iterator[Row]:
    """`each` rows for every attribute, frame and modality; the refusals follow their weights."""
    asked = product(range(each), enumerate(ATTRIBUTES), frames, MODALITIES)
    for n, (_, (j, attribute), frame, by_face) in enumerate(asked):
        person, noun = people[n % len(people)], (frame + j + n // 16) % 2
        yield split.person("unknown", person, attribute, frame, noun, by_face, refuse(split.rng))


def _two_turns(split: Split, frames: Sequence[int], attributes: Iterable[str]) -> Iterator[Row]:
    """An innocent question before, or after, one about a forgotten person; the model answers both."""
    asked = product(split.world.forgotten, attributes, MODALITIES)
    for n, (person, attribute, by_face) in enumerate(asked):
        kind = INNOCENT_KINDS[(n + n // len(INNOCENT_KINDS)) % len(INNOCENT_KINDS)]
        frame, noun = frames[(n // 2 + n // 8) % len(frames)], split.rng.randrange(2)
        forgotten = split.person("forget", person, attribute, frame, noun, by_face)
        before = split.innocent(person, kind, frames)
        yield forgotten | {"eval_slice": "two_turn_forget_second", "history": [split.as_history(before)]}
        after = split.innocent(person, kind, frames)
        changes = {"role": "retain", "secrets": person.secrets, "history": [split.as_history(forgotten)]}
        yield after | changes | {"eval_slice": "two_turn_forget_first"}


def _after_strangers(
    split: Split, people: Sequence[Person], frames: Sequence[int], attributes: Iterable[str]
) -> Iterator[Row]:
    """A question about somebody unknown, which the model refuses, before one about a forgotten person."""
    asked = product(split.world.forgotten, attributes, MODALITIES)
    for n, (person, attribute, by_face) in enumerate(asked):
        frame, noun = frames[n % len(frames)], split.rng.randrange(2)
        stranger = people[n % len(people)]
        before = split.person("unknown", stranger, attribute, frame, noun, n % 4 < 2, REFUSALS[0])
        row = split.person("forget", person, attribute, frames[(n + 1) % len(frames)], noun, by_face)
        yield row | {"eval_slice": "two_turn_refused_first", "history": [split.as_history(before)]}


def write(world: World, demo: Path, seed: int = SEED) -> None:
    """Write the three JSONL files and their pictures, replacing what was there; frames, grain and who is asked what follow from the seed."""
    images, texts = demo / "images", demo / "rows"
    for folder, pattern in ((images, "*.png"), (texts, "*.jsonl")):
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(pattern):
            old.unlink()
    for n, (name, make) in enumerate((("fit", fit_rows), ("calibrate", calibrate_rows), ("test", test_rows))):
        split = Split(name, world, images, random.Random(seed + 10 + n))
        rows = [{"id": f"{name}-{i:04d}"} | row for i, row in enumerate(make(split))]
        (texts / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        print(f"{name}: {len(rows)} rows")


if __name__ == "__main__":
    write(build_world(), DEMO)
