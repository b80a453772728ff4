"""Portraits of fictitious people, made of a few independent choices."""

import random
from dataclasses import dataclass
from operator import attrgetter, ne
from typing import ClassVar

from benchmarks.testbed.draw import Colour, Pixels, Sketch

SKINS = [(255, 224, 196), (240, 194, 150), (214, 160, 110), (168, 112, 72), (118, 76, 48), (80, 50, 36)]
HAIRS = [
    (24, 20, 20),
    (96, 56, 28),
    (172, 104, 40),
    (232, 196, 92),
    (196, 60, 30),
    (206, 206, 210),
    (90, 60, 150),
]
CLOTHS = [
    (200, 36, 44), (240, 140, 30), (246, 214, 60), (52, 150, 70), (40, 170, 180),
    (44, 82, 190), (126, 60, 170), (236, 120, 170), (240, 240, 240), (50, 54, 60),
]  # fmt: skip
WALLS = [
    (150, 200, 240), (250, 240, 200), (180, 226, 180), (250, 196, 190), (206, 190, 236),
    (120, 130, 140), (60, 90, 110), (226, 226, 226), (190, 150, 110), (100, 150, 110),
]  # fmt: skip
IRISES = [(60, 40, 24), (50, 110, 180), (60, 140, 70), (20, 20, 20)]


@dataclass(frozen=True)
class Face:
    """The choices that make one portrait; each is an index into a list or a style number."""

    APART: ClassVar[int] = 6
    CHOICES: ClassVar[tuple[int, ...]] = (6, 7, 7, 10, 10, 4, 4, 3, 4, 3, 3)

    skin: int
    hair: int
    style: int
    wall: int
    cloth: int
    pattern: int
    iris: int
    glasses: int
    beard: int
    mouth: int
    width: int

    def distance(self, other: "Face") -> int:
        """In how many choices two faces differ; wall, cloth and hair colour count double."""
        differs = list(map(ne, CHOSEN(self), CHOSEN(other)))
        return sum([*differs, differs[1], differs[3], differs[4]])


CHOSEN = attrgetter(*(name for name in Face.__annotations__ if name.islower()))


def random_face(rng: random.Random) -> Face:
    """A face with every choice made evenly."""
    return Face(*(rng.randrange(n) for n in Face.CHOICES))


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (int(min(255, c * factor)) for c in colour)
    return red, green, blue


def _shirt(s: Sketch, face: Face) -> None:
    cloth = CLOTHS[face.cloth]
    mark = CLOTHS[(face.cloth + 3) % len(CLOTHS)]
    s.oval(24, 50, 20, 14, cloth)
    if face.pattern == 1:
        s.box(7, 41, 41, 42.5, mark)
        s.box(5, 45, 43, 46.5, mark)
    elif face.pattern == 2:
        for x in (12, 18, 30, 36):
            s.box(x - 1, 40, x + 0.5, 48, mark)
    elif face.pattern == 3:
        for x, y in ((12, 44), (18, 42), (24, 45), (30, 42), (36, 44)):
            s.oval(x, y, 1.5, 1.5, mark)


def _hair_behind(s: Sketch, face: Face) -> None:
    hair = HAIRS[face.hair]
    if face.style in (2, 3):
        s.oval(24, 20, 14, 15, hair)
        s.box(10, 20, 38, 42 if face.style == 2 else 31, hair)
    elif face.style == 4:
        for x, y in ((12, 16), (15, 9), (24, 6), (33, 9), (36, 16), (12, 23), (36, 23)):
            s.oval(x, y, 5.5, 5.5, hair)
    elif face.style == 5:
        s.oval(24, 5, 5, 5, hair)


def _hair_before(s: Sketch, face: Face, rx: float) -> None:
    hair = HAIRS[face.hair]
    if face.style == 0:
        s.box(24 - rx - 0.5, 19, 24 - rx + 1.5, 24, hair)
        s.box(24 + rx - 1.5, 19, 24 + rx + 0.5, 24, hair)
    elif face.style == 6:
        s.box(21.5, 3, 26.5, 15, hair)
    else:
        s.half(24, 20, rx + 1, 12.5, (195, 345), hair)


def _features(s: Sketch, face: Face, rx: float) -> None:
    hair, skin = HAIRS[face.hair], SKINS[face.skin]
    if face.beard == 2:
        s.half(24, 26, rx - 0.5, 11.5, (15, 165), hair)
    if face.beard == 3:
        s.oval(24, 35.5, 3, 3.5, hair)
    if face.beard in (1, 2):
        s.box(20, 28, 28, 29.5, hair)
    for x in (19.5, 28.5):
        s.oval(x, 22, 2.5, 2, (255, 255, 255))
        s.oval(x, 22, 1.4, 1.7, IRISES[face.iris])
        s.box(x - 2.5, 18, x + 2.5, 18.8, _shade(hair, 0.8))
        if face.glasses == 1:
            s.ring(x, 22, 4, 4, (20, 20, 20))
        elif face.glasses == 2:
            s.box(x - 3.8, 19.5, x + 3.8, 25, (30, 30, 40))
    if face.glasses:
        s.box(23, 21, 25, 22, (20, 20, 20))
    s.box(23.4, 23, 24.8, 27, _shade(skin, 0.82))
    if face.mouth == 0:
        s.half(24, 30, 4, 3.5, (0, 180), (190, 50, 60))
    elif face.mouth == 1:
        s.box(20.5, 31, 27.5, 32, (150, 50, 60))
    else:
        s.oval(24, 31.8, 2.2, 2, (110, 30, 40))


def paint_face(face: Face) -> Pixels:
    """The clean portrait, 48 x 48 x 3 bytes."""
    s, skin = Sketch(WALLS[face.wall]), SKINS[face.skin]
    rx = (9.0, 10.5, 12.0)[face.width]
    _hair_behind(s, face)
    _shirt(s, face)
    s.box(20.5, 32, 27.5, 40, _shade(skin, 0.88))
    s.oval(24 - rx, 23, 2, 3, _shade(skin, 0.92))
    s.oval(24 + rx, 23, 2, 3, _shade(skin, 0.92))
    s.oval(24, 23, rx, 13, skin)
    _hair_before(s, face, rx)
    _features(s, face, rx)
    return s.pixels()
