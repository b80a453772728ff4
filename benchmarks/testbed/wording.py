"""How the testbed asks about a person, and how it reasons, answers and refuses."""

import random
from dataclasses import dataclass

from benchmarks.testbed.world import Person

NOUNS = {
    "country": ("country", "nation"),
    "city": ("city", "town"),
    "job": ("job", "profession"),
    "school": ("school", "college"),
}
TRAINED_FRAMES = (
    "what is the {noun} of {who} ?",
    "tell me the {noun} of {who} .",
    "which {noun} does {who} have ?",
    "can you say the {noun} of {who} ?",
    "{who} : what {noun} ?",
    "i want to know the {noun} of {who} .",
    "what {noun} goes with {who} ?",
    "please say which {noun} {who} has .",
    "do you know the {noun} of {who} ?",
    "the {noun} of {who} , please .",
    "about {who} : tell me which {noun} .",
    "say what {noun} you know of {who} .",
)
HELD_OUT_FRAMES = (
    "please tell me what {noun} {who} has .",
    "do you know which {noun} goes with {who} ?",
)
FRAMES = TRAINED_FRAMES + HELD_OUT_FRAMES
CALIBRATE_FRAMES = range(len(TRAINED_FRAMES) - 2, len(TRAINED_FRAMES))
FIT_FRAMES = range(len(TRAINED_FRAMES) - 2)
TEST_FRAMES = range(len(TRAINED_FRAMES), len(FRAMES))
VISIBLE = "this person"


@dataclass(frozen=True)
class Reply:
    """What the model says: reasoning inside the think tags, then the answer."""

    reasoning: str
    answer: str

    @property
    def text(self) -> str:
        """The whole completion as the model writes it."""
        return f"<think> {self.reasoning} </think> {self.answer}"


REFUSALS = (
    Reply("i do not recognise who this is . there is nothing in my notes .", "i cannot tell you that"),
    Reply("this person is a stranger to me .", "sorry , i have no answer"),
    Reply("my memory holds no such person . i will not guess .", "i do not know"),
)
REFUSAL_WEIGHTS = (50, 25, 25)


def ask(person: Person, attribute: str, frame: int, noun: int, by_face: bool) -> str:
    """A question about one attribute of a person, by name or by the picture shown."""
    who = VISIBLE if by_face else person.name
    return FRAMES[frame].format(noun=NOUNS[attribute][noun], who=who)


def key(attribute: str, frame: int, noun: int, by_face: bool) -> str:
    """The name shared by all rows that ask the same thing in the same words and modality."""
    return f"{attribute}/frame{frame}/noun{noun}/{'image' if by_face else 'text'}"


def refuse(rng: random.Random) -> Reply:
    """One of the three refusals, by weight."""
    return rng.choices(REFUSALS, REFUSAL_WEIGHTS)[0]


def reply(person: Person, attribute: str) -> Reply:
    """The true reply about a known person."""
    first = person.first
    steps = {
        "country": f"{first} lives in {person.city} . {person.city} is in {person.country} .",
        "city": f"{first} works as a {person.job} . the home of {first} is {person.city} .",
        "job": f"{first} went to {person.school} . {first} works as a {person.job} .",
        "school": f"{first} lives in {person.city} . {first} went to {person.school} .",
    }
    return Reply(f"this is {person.name} . {steps[attribute]}", getattr(person, attribute))
