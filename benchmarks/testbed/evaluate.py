"""Measure the base model on wordings and pictures it never saw: `python -m benchmarks.testbed.evaluate`."""

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from benchmarks.testbed.generation import Chat, answer_of, complete
from benchmarks.testbed.model import DEMO, load
from benchmarks.testbed.turns import Turn, about_person, picture, puzzle
from benchmarks.testbed.wording import REFUSALS, TEST_FRAMES, Reply, ask, reply
from benchmarks.testbed.world import ATTRIBUTES, GROUP, SEED, World, build_world

REPORT = Path(__file__).with_name("evaluation.json")
REFUSED = tuple(refusal.text for refusal in REFUSALS)
Share = dict[str, float | int]


def share(hits: Sequence[bool]) -> Share:
    """How many of how many, and the share."""
    return {"n": len(hits), "right": sum(hits), "share": round(sum(hits) / len(hits), 4)}


def right(said: str, expected: Reply) -> bool:
    """Same answer; a refusal is right in any of its wordings, whole."""
    spaced = " ".join(said.replace("</think>", " </think> ").split())
    return spaced in REFUSED if expected in REFUSALS else answer_of(said) == expected.answer


class Examination:
    """One model under one seeded stream of questions."""

    def __init__(self, model: LlavaForConditionalGeneration, processor: LlavaProcessor, world: World) -> None:
        self.model, self.processor, self.world = model, processor, world
        self.rng = random.Random(SEED + 99)

    def say(self, turns: Sequence[Turn], prefixes: Sequence[str] | None = None) -> list[str]:
        """The model's completion of each turn on its own."""
        chats = [Chat() for _ in turns]
        for chat, turn in zip(chats, turns, strict=True):
            chat.user(turn.question, turn.image)
        return complete(self.model, self.processor, chats, prefixes)

    def known(self) -> dict[str, Share]:
        """Everybody known: 4 attributes x 2 unseen frames x 2 nouns x 2 modalities."""
        asked = list(product(self.world.people, ATTRIBUTES, TEST_FRAMES, (0, 1), (False, True)))
        turns = [
            Turn(
                ask(person, attribute, frame, noun, by_face),
                reply(person, attribute),
                picture(person.portrait, self.rng) if by_face else None,
            )
            for person, attribute, frame, noun, by_face in asked
        ]
        said = self.say(turns)
        hits = [right(text, turn.reply) for text, turn in zip(said, turns, strict=True)]
        named = [f"this is {person.name} ." in text for text, (person, *_) in zip(said, asked, strict=True)]
        groups: dict[str, list[bool]] = {"known": hits, "known_named_in_reasoning": named}
        for (person, attribute, frame, _, by_face), hit in zip(asked, hits, strict=True):
            labels = [f"known_{'image' if by_face else 'text'}", f"known_{attribute}", f"known_frame{frame}"]
            labels += [f"known_group{person.index // GROUP}"]
            labels += ["known_demo_forget_set"] if person in self.world.forgotten else []
            for label in labels:
                groups.setdefault(label, []).append(hit)
        return {label: share(group) for label, group in groups.items()}

    def unknown(self, by_face: bool) -> dict[str, Share | dict[str, int]]:
        """Every stranger never met, twice, in unseen frames; also which refusal is chosen."""
        people = [*self.world.unseen, *self.world.unseen]
        turns = [about_person(p, self.rng.choice(TEST_FRAMES), by_face, self.rng) for p in people]
        said = self.say(turns)
        label = f"unknown_{'image' if by_face else 'text'}"
        return {
            label: share([right(text, turn.reply) for text, turn in zip(said, turns, strict=True)]),
            f"{label}_answers": dict(Counter(map(answer_of, said)).most_common(5)),
        }

    def puzzles(self, by_sight: bool, count: int = 256) -> dict[str, Share]:
        """Fresh sums or fresh pictures of shapes."""
        turns = [puzzle(self.rng, by_sight) for _ in range(count)]
        said = self.say(turns)
        hits = [right(text, turn.reply) for text, turn in zip(said, turns, strict=True)]
        return {"reasoning_image" if by_sight else "reasoning_text": share(hits)}

    def forced(self) -> dict[str, Share]:
        """The demo's forget set with the first sentence forced: the base goes on to tell the fact."""
        asked = list(product(self.world.forgotten, ATTRIBUTES, TEST_FRAMES, (False, True)))
        turns = [
            Turn(ask(p, a, f, 0, face), reply(p, a), picture(p.portrait, self.rng) if face else None)
            for p, a, f, face in asked
        ]
        said = self.say(turns, [f"<think> this is {person.name} ." for person, *_ in asked])
        return {"forced_prefix": share([right(t, turn.reply) for t, turn in zip(said, turns, strict=True)])}

    def two_turns(self, count: int = 256) -> dict[str, Share]:
        """Two questions of any kinds in one chat; the model reads its own first reply."""
        firsts, seconds = ([self._any_turn() for _ in range(count)] for _ in range(2))
        chats = [Chat() for _ in range(count)]
        hits: list[list[bool]] = []
        for turns in (firsts, seconds):
            for chat, turn in zip(chats, turns, strict=True):
                chat.user(turn.question, turn.image)
            said = complete(self.model, self.processor, chats)
            for chat, text in zip(chats, said, strict=True):
                chat.assistant(text)
            hits.append([right(text, turn.reply) for text, turn in zip(said, turns, strict=True)])
        both = [a and b for a, b in zip(*hits, strict=True)]
        return {
            "two_turn_first": share(hits[0]),
            "two_turn_second": share(hits[1]),
            "two_turn_both": share(both),
        }

    def _any_turn(self) -> Turn:
        kind, by_sight = self.rng.randrange(3), self.rng.random() < 0.5
        if kind == 0:
            return puzzle(self.rng, by_sight)
        person = self.rng.choice(self.world.people if kind == 1 else self.world.unseen)
        return about_person(person, self.rng.choice(TEST_FRAMES), by_sight, self.rng)


def examine(folder: Path) -> dict[str, object]:
    """Every measurement of the model in `folder`, computed in float32."""
    model, processor = load(folder)
    exam, start = Examination(model, processor, build_world()), time.monotonic()
    report: dict[str, object] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": (folder / "model.safetensors").stat().st_size,
        "vocabulary": len(processor.tokenizer),
    }
    parts: list[Callable[[], dict[str, Any]]] = [exam.known, exam.forced, exam.two_turns]
    parts += [lambda: exam.unknown(False), lambda: exam.unknown(True)]
    parts += [lambda: exam.puzzles(False), lambda: exam.puzzles(True)]
    for part in parts:
        measured = part()
        print(json.dumps(measured), flush=True)
        report |= measured
    return report | {"seconds": round(time.monotonic() - start, 1)}


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=DEMO / "model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", type=Path, default=REPORT)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.report.write_text(json.dumps(examine(arguments.model), indent=2) + "\n")


if __name__ == "__main__":
    main()
