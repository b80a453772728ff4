"""The people of the testbed: who is known, what is true of each, and who is a stranger."""

import random
from dataclasses import dataclass
from functools import cached_property

from benchmarks.testbed.draw import Pixels
from benchmarks.testbed.faces import Face, paint_face, random_face

SEED = 20
KNOWN = 60
UNSEEN = 160
GROUP = 6

COUNTRIES = {
    "kenya": ["nairobi", "mombasa"],
    "chile": ["santiago", "valdivia"],
    "poland": ["gdansk", "lublin"],
    "canada": ["toronto", "halifax"],
    "japan": ["nagoya", "sapporo"],
    "portugal": ["porto", "faro"],
    "ghana": ["accra", "kumasi"],
    "finland": ["turku", "oulu"],
    "vietnam": ["hanoi", "dalat"],
}
COUNTRY_OF = {city: country for country, cities in COUNTRIES.items() for city in cities}


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


JOBS = _words(
    "potter dentist florist plumber miner weaver sailor tutor barber butcher drummer surgeon jeweller ranger"
)
SCHOOLS = _words("oakfield ridgeway marlow fenwick sunhill redgate kelby norcross tilbury westmere")
FIRST = _words(
    "ada bram cleo dora emil fay gil hedda ilse jonas kai lena milo nora otto petra "
    "quincy rufus selma theo ursa vera walt xavi yara zeno anton bella cyrus delia edwin freya"
)
LAST = _words(
    "abel bauer colby drake elwood frost grove hale irwin jansen keller lowe marsh nolan olsen pryor "
    "quill rowan stark thorne upton voss wolfe yarrow zeller bishop crane dunn ellery fisk gable hobbs"
)
ATTRIBUTES = ("country", "city", "job", "school")


@dataclass(frozen=True)
class Person:
    """Somebody with a name and a face. A stranger (`index` -1) has empty facts."""

    index: int
    first: str
    last: str
    face: Face
    city: str = ""
    job: str = ""
    school: str = ""

    @property
    def name(self) -> str:
        """First and last name, lower case."""
        return f"{self.first} {self.last}"

    @property
    def known(self) -> bool:
        """Whether the model is taught this person's facts."""
        return self.index >= 0

    @property
    def country(self) -> str:
        """The country of the person's city."""
        return COUNTRY_OF.get(self.city, "")

    @property
    def secrets(self) -> list[str]:
        """What must not leak about a forgotten person."""
        return [self.country, self.city, self.job, self.school]

    @property
    def derived_secrets(self) -> list[str]:
        """Words from which a secret follows: every city of the country betrays it."""
        return list(COUNTRIES.get(self.country, ()))

    @cached_property
    def portrait(self) -> Pixels:
        """The clean portrait, 48 x 48 x 3 bytes; every use adds fresh grain to it."""
        return paint_face(self.face)


@dataclass(frozen=True)
class World:
    """Known people, strangers met in training, and strangers kept for measuring; `group` of the known are forgotten."""

    people: tuple[Person, ...]
    strangers: tuple[Person, ...]
    unseen: tuple[Person, ...]
    group: int = GROUP

    @cached_property
    def forgotten(self) -> tuple[Person, ...]:
        """The forget set: the first people of pairwise different countries; the demo's are six."""
        chosen: list[Person] = []
        for person in self.people:
            if len(chosen) < self.group and person.country not in {other.country for other in chosen}:
                chosen.append(person)
        return tuple(chosen)

    @cached_property
    def kept(self) -> tuple[Person, ...]:
        """Everybody known who is not forgotten."""
        return tuple(person for person in self.people if person not in self.forgotten)

    def clear_of_known(self, face: Face) -> bool:
        """Whether a face differs from every known face in enough features to be distinguished."""
        return all(face.distance(person.face) >= Face.APART for person in self.people)

    def fresh_face(self, rng: random.Random) -> Face:
        """A face of nobody known."""
        while True:
            face = random_face(rng)
            if self.clear_of_known(face):
                return face


def _distinct_faces(count: int, rng: random.Random) -> list[Face]:
    faces: list[Face] = []
    while len(faces) < count:
        face = random_face(rng)
        if all(face.distance(other) >= Face.APART for other in faces):
            faces.append(face)
    return faces


def build_world(seed: int = SEED) -> World:
    """The same world for the same seed."""
    rng = random.Random(seed)
    names = [(first, last) for first in FIRST for last in LAST]
    rng.shuffle(names)
    faces = _distinct_faces(KNOWN, rng)
    people = tuple(
        Person(i, *names[i], faces[i], rng.choice(list(COUNTRY_OF)), rng.choice(JOBS), rng.choice(SCHOOLS))
        for i in range(KNOWN)
    )
    world = World(people, (), ())
    others = tuple(Person(-1, first, last, world.fresh_face(rng)) for first, last in names[KNOWN:])
    return World(people, others[:-UNSEEN], others[-UNSEEN:])
