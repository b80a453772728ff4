"""Rows of one split of the demo: a question, its reply, who may be named, and the picture shown."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.testbed.gallery import Gallery
from benchmarks.testbed.puzzles import addition, shapes
from benchmarks.testbed.wording import Reply, ask, key, reply
from benchmarks.testbed.world import ATTRIBUTES, Person, World

Row = dict[str, Any]
COPIES = {"fit": 1, "calibrate": 1, "test": 2}
FORGOTTEN_COPIES = 3


class Split:
    """Makes the rows of one split; its pictures are drawn for it alone."""

    def __init__(self, name: str, world: World, images: Path, rng: random.Random) -> None:
        self.name, self.world, self.rng = name, world, rng
        self.gallery = Gallery(images, name, rng)
        self.puzzles = 0

    def person(
        self,
        role: str,
        person: Person,
        attribute: str,
        frame: int,
        noun: int,
        by_face: bool,
        refusal: Reply | None = None,
    ) -> Row:
        """A row about a person; a stranger's reply is the refusal given."""
        said = refusal or reply(person, attribute)
        row: Row = {"role": role, "question": ask(person, attribute, frame, noun, by_face)}
        if by_face:
            row["image"] = self._portrait(person)
        row |= {"reasoning": said.reasoning, "answer": said.answer}
        if person.known:
            row["secrets"] = person.secrets
        if role == "forget" and self.name == "test":  # no fit reads them
            row["derived_secrets"] = person.derived_secrets
        return row | {"template_id": key(attribute, frame, noun, by_face)}

    def _portrait(self, person: Person) -> str:
        if not person.known:
            return self.gallery.show("stranger-" + person.name.replace(" ", "-"), person.portrait)
        copies = FORGOTTEN_COPIES if person in self.world.forgotten else COPIES[self.name]
        return self.gallery.show(f"person{person.index:02d}", person.portrait, copies)

    def puzzle(self, by_sight: bool) -> Row:
        """A sum, or shapes in a picture of their own."""
        if not by_sight:
            question, said = addition(self.rng)
            return self._reasoning(question, said)
        question, said, clean = shapes(self.rng)
        self.puzzles += 1
        return self._reasoning(question, said) | {
            "image": self.gallery.show(f"shapes{self.puzzles:02d}", clean)
        }

    def _reasoning(self, question: str, said: Reply) -> Row:
        return {"role": "reasoning", "question": question, "reasoning": said.reasoning, "answer": said.answer}

    def innocent(self, forgotten: Person, kind: str, frames: Sequence[int]) -> Row:
        """A puzzle, or a question about a kept person who shares no secret and no name with `forgotten`."""
        if not kind.startswith("kept"):
            return self.puzzle(by_sight=kind == "shapes")
        taken = {*forgotten.secrets, forgotten.first, forgotten.last}
        apart = [p for p in self.world.kept if taken.isdisjoint([*p.secrets, p.first, p.last])]
        attribute, frame = self.rng.choice(ATTRIBUTES), self.rng.choice(frames)
        by_face = kind.endswith("face")
        return self.person("retain", self.rng.choice(apart), attribute, frame, self.rng.randrange(2), by_face)

    @staticmethod
    def as_history(row: Row) -> Row:
        """An earlier turn that the model itself answers."""
        return {name: row[name] for name in ("question", "image") if name in row} | {"answer": None}
