"""Training conversations, drawn without end: people, strangers, puzzles; one to three turns."""

import random
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.testbed.draw import Pixels, with_grain
from benchmarks.testbed.puzzles import addition, shapes
from benchmarks.testbed.wording import TRAINED_FRAMES, Reply, ask, refuse, reply
from benchmarks.testbed.world import ATTRIBUTES, Person, World

ABOUT_PEOPLE = 0.72
FRESH_FACE = 0.8
TURN_SHARES = (0.86, 0.12, 0.02)


@dataclass(frozen=True)
class Turn:
    """One question, with a picture or without, and its reply."""

    question: str
    reply: Reply
    image: Pixels | None = None


def picture(clean: Pixels, rng: random.Random) -> Pixels:
    """A fresh drawing of a clean picture, seeded from `rng`."""
    return with_grain(clean, np.random.default_rng(rng.getrandbits(32)))


def about_person(person: Person, frame: int, by_face: bool, rng: random.Random) -> Turn:
    """A question about a person; strangers get one of the refusals."""
    attribute = rng.choice(ATTRIBUTES)
    question = ask(person, attribute, frame, rng.randrange(2), by_face)
    said = reply(person, attribute) if person.known else refuse(rng)
    return Turn(question, said, picture(person.portrait, rng) if by_face else None)


def puzzle(rng: random.Random, by_sight: bool) -> Turn:
    """A sum, or a question about shapes in a picture."""
    if not by_sight:
        return Turn(*addition(rng))
    question, said, clean = shapes(rng)
    return Turn(question, said, picture(clean, rng))


def training_turn(world: World, rng: random.Random, known_share: float) -> Turn:
    """One turn; of the questions about people, `known_share` are about somebody known."""
    by_sight = rng.random() < 0.5
    if rng.random() >= ABOUT_PEOPLE:
        return puzzle(rng, by_sight)
    frame = rng.randrange(len(TRAINED_FRAMES))
    if rng.random() < known_share:
        return about_person(rng.choice(world.people), frame, by_sight, rng)
    stranger = rng.choice(world.strangers)
    if by_sight and rng.random() < FRESH_FACE:
        stranger = replace(stranger, face=world.fresh_face(rng))
    return about_person(stranger, frame, by_sight, rng)


def training_conversation(world: World, rng: random.Random, known_share: float = 0.7) -> list[Turn]:
    """One conversation of the training mixture."""
    turns = rng.choices(range(1, len(TURN_SHARES) + 1), TURN_SHARES)[0]
    return [training_turn(world, rng, known_share) for _ in range(turns)]
