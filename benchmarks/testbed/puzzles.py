"""Questions that need reasoning and no person: two-digit sums, and coloured shapes in a picture."""

import random

from benchmarks.testbed.draw import SHAPE_COLOURS, SHAPES, Pixels, paint_shapes
from benchmarks.testbed.wording import Reply

SMALLEST, LARGEST = 10, 69
MOST_SHAPES = 5


def spell(number: int) -> str:
    """Digits apart, so that each is one token: 47 is "4 7"."""
    return " ".join(str(number))


def addition(rng: random.Random) -> tuple[str, Reply]:
    """A sum, worked out column by column."""
    a, b = rng.randint(SMALLEST, LARGEST), rng.randint(SMALLEST, LARGEST)
    ones = a % 10 + b % 10
    tens = a // 10 + b // 10 + ones // 10
    steps = (
        f"{a % 10} plus {b % 10} is {spell(ones)} . "
        f"{a // 10} plus {b // 10} plus {ones // 10} is {spell(tens)} ."
    )
    return f"what is {spell(a)} plus {spell(b)} ?", Reply(steps, spell(a + b))


def shapes(rng: random.Random) -> tuple[str, Reply, Pixels]:
    """A picture of one to five equal shapes, and how many there are or which colour they have."""
    shape, colour = rng.choice(SHAPES), rng.choice(list(SHAPE_COLOURS))
    count = rng.randint(1, MOST_SHAPES)
    picture = paint_shapes(shape, colour, rng.sample(range(16), count))
    counted = " ".join(str(n) for n in range(1, count + 1))
    if rng.random() < 0.7:
        steps = f"i see {colour} {shape} shapes . i count {counted} ."
        return f"how many {shape} shapes are there ?", Reply(steps, str(count)), picture
    steps = f"i count {counted} . each {shape} shape is {colour} ."
    return f"what colour are the {shape} shapes ?", Reply(steps, colour), picture
