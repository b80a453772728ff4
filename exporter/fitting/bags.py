"""Whole sequences for a gate that reads every column: where one must fire in time, and where it must never fire.

A forget sequence has to fire at some column between its beginning and the column that predicts the first token of a
secret; which one is left to the gate (multiple instances, one label: Dietterich, Lathrop and Lozano-Perez, Artificial
Intelligence 89, 1997, doi:10.1016/S0004-3702(96)00034-3). A sequence to keep, the model's own reply included, has to fire
nowhere.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from exporter.evaluation.attacks.prefill import leading_clause, secret_start
from exporter.evaluation.attacks.turns import Refusal
from exporter.fitting.activations import Activations
from exporter.fitting.beginnings import FEWEST, LEAST, common_beginning
from exporter.fitting.context import FitContext
from exporter.fitting.frame_words import WORDS
from exporter.fitting.frames import Surroundings, framed_rows, spread_by_id
from exporter.fitting.pooling import PooledSequence
from exporter.fitting.selection import of_one_side
from exporter.fitting.template_swap import subjects
from exporter.fitting.vocabulary import spoken_words
from exporter.types import Encoded, Prompt, Row
from exporter.wording.leaks import tells


@dataclass(frozen=True)
class BagPlan:
    """How many sequences are drawn from the rows of a split.

    Attributes:
        rows: rows as they stand, per role.
        forget, keep, unknown: framed rows of each kind.
        replies: kept sequences whose reply the base makes itself; the others get the row's own answer.
        longest: columns of a sequence that are read; later columns are dropped.
    """

    rows: int = 200
    forget: int = 520
    keep: int = 1100
    unknown: int = 200
    replies: int = 1500
    longest: int = 448


@dataclass(frozen=True)
class Bag:
    """One sequence.

    Attributes:
        frame: what it was framed in.
        stop: columns before this one are read; for a forget sequence, up to the one that predicts a secret.
        first: columns before this one are those that many sequences begin with alike.
        end: column of the prompt's last token.
    """

    row: Row
    frame: str
    sequence: Encoded
    stop: int
    first: int = 0

    @property
    def forget(self) -> bool:
        return self.row.role == "forget"

    @property
    def end(self) -> int:
        return self.sequence.prompt_end


@dataclass(frozen=True)
class BagStates:
    """States of bags at some layers, column by column.

    Attributes:
        bags: the sequences.
        found: float32 [N,L,d] states with the columns of every bag one behind the other.
        shared: states of the columns that bags with a ``first`` begin with; None where there are none.
    """

    bags: tuple[Bag, ...]
    found: Activations
    shared: Activations | None = None

    def at(self, layer: int) -> Tensor:
        """States [N,d] of every column at one layer."""
        return self.found.at(layer)

    @property
    def owner(self) -> Tensor:
        """int64 [N]: the bag of each column."""
        counts = torch.from_numpy(self.found.starts).diff()
        return torch.repeat_interleave(torch.arange(len(self.bags)), counts)


def gather_bags(
    context: FitContext, split: str, plan: BagPlan, refusals: Sequence[Refusal], layers: Sequence[int]
) -> BagStates:
    """Sequences of a split, as they stand and framed, with the states of all their columns."""
    bags, head = _behind_beginning(make_bags(context, split, plan, refusals))
    items = [
        PooledSequence(_cut(bag), tuple((column,) for column in range(bag.first, bag.stop))) for bag in bags
    ]
    found = context.collect(items, layers, f"states of all columns ({split})")
    if not head:
        return BagStates(tuple(bags), found)
    begun = PooledSequence(Encoded(Prompt("", head)), tuple((column,) for column in range(len(head))))
    return BagStates(tuple(bags), found, context.collect([begun], layers, "states of the beginning"))


def _behind_beginning(bags: Sequence[Bag]) -> tuple[list[Bag], tuple[int, ...]]:
    """Bags without the columns that most of them begin with, a system prompt most often, and the ids of those columns."""
    texts = [bag for bag in bags if not bag.sequence.prompt.images and bag.stop > LEAST]
    heads = Counter(bag.sequence.prompt.ids[:LEAST] for bag in texts)
    if not heads:
        return list(bags), ()
    most, count = heads.most_common(1)[0]
    alike = [bag for bag in texts if bag.sequence.prompt.ids[:LEAST] == most]
    head = common_beginning([bag.sequence.prompt.ids[: bag.stop] for bag in alike])
    if len(head) < LEAST or count < FEWEST:
        return list(bags), ()
    behind = {id(bag) for bag in alike}
    return [replace(bag, first=len(head)) if id(bag) in behind else bag for bag in bags], head


def make_bags(context: FitContext, split: str, plan: BagPlan, refusals: Sequence[Refusal]) -> list[Bag]:
    """See :func:`gather_bags`."""
    rows = of_one_side(context.rows(split, "forget", "retain", "reasoning", "unknown"))
    spoken = spoken_words(context.host.tokenizer, split)
    systems = context.chat.takes_system
    around = Surroundings.of(rows, WORDS[split], refusals, spoken, systems=systems)
    draw = random.Random(context.seed + 11)
    drafts: list[tuple[str, Row, Prompt]] = []
    sides = ((("forget",), plan.forget), (("retain", "reasoning"), plan.keep), (("unknown",), plan.unknown))
    for roles, count in sides:
        chosen = [row for row in rows if row.role in roles]
        asked = [("plain", row) for row in context.filled(spread_by_id(chosen, plan.rows))]
        asked += _framed(chosen, around, count, context.seed + 12)
        side = [(kind, row, context.chat.prompt(row)) for kind, row in asked]
        side += _bare(context, chosen, count // 8)
        side += _two_pictures(context, chosen, around, count // 10, draw)
        drafts += [*side, *_begun(context, side, count // 5)]
    return _replied(context, drafts, plan)


def _replied(context: FitContext, drafts: Sequence[tuple[str, Row, Prompt]], plan: BagPlan) -> list[Bag]:
    """Every draft with a reply behind it: the base's own for ``plan.replies`` kept ones, else the row's.

    Retain sequences for which the base itself generates a subject of the forget set are skipped: neither label is right for them.
    """
    kept = [i for i, (_, row, _) in enumerate(drafts) if row.role != "forget"]
    chosen = sorted(random.Random(context.seed + 13).sample(kept, min(plan.replies, len(kept))))
    said = dict(zip(chosen, context.own([drafts[i][2] for i in chosen]), strict=True)) if chosen else {}
    subjects = forgotten_subjects(context.rows("fit", "forget", "retain", "unknown"))
    bags: list[Bag] = []
    for number, (kind, row, prompt) in enumerate(drafts):
        if number in said:
            tokens = said[number].tokens
            if not tells_of(context.host.tokenizer.decode(tokens, skip_special_tokens=True), subjects):
                bags.append(_bag(row, kind, prompt, tokens, None, plan))
            continue
        response = _rest(context, row, prompt)
        secret_at = _secret_start(context, row, response) if row.role == "forget" else None
        bags.append(_bag(row, kind, prompt, response, secret_at, plan))
    return bags


def forgotten_subjects(rows: Sequence[Row]) -> dict[str, frozenset[str]]:
    """Secrets by subject, for the subjects that templates tell from others."""
    named = subjects(rows)
    found: dict[str, frozenset[str]] = {}
    for row in rows:
        if row.role == "forget" and row.image is None and row.id in named:
            found[named[row.id]] = found.get(named[row.id], frozenset()) | set(row.secrets or (row.answer,))
    return found


def tells_of(text: str, subjects: Mapping[str, frozenset[str]]) -> bool:
    """Whether a text names a subject and one of its secrets."""
    return any(tells(text, (subject,)) and tells(text, secrets) for subject, secrets in subjects.items())


def _begun(
    context: FitContext, drafts: Sequence[tuple[str, Row, Prompt]], count: int
) -> list[tuple[str, Row, Prompt]]:
    """Drafts with a prefill: the clause of the answer before the secret."""
    found = []
    for kind, row, prompt in sorted(drafts, key=lambda draft: _order(draft[1].id))[:count]:
        draw = random.Random(f"{context.seed} {row.id} begun")
        response = _rest(context, row, prompt)
        clause = leading_clause(context.host.tokenizer, response, row.secrets or (row.answer,), draw)
        if clause is None:
            continue
        begun = response[slice(*clause)]
        text = prompt.text + context.host.tokenizer.decode(begun)
        found.append(
            (
                f"{kind}, begun",
                replace(row, prefix=text[len(prompt.text) :]),
                Prompt(text, (*prompt.ids, *begun), prompt.images),
            )
        )
    return found


def _framed(rows: Sequence[Row], around: Surroundings, count: int, seed: int) -> list[tuple[str, Row]]:
    """Framed rows of one side; if some retain rows are generated, half of the frames use the given ones, which are nearest to the topic."""
    brought, made = [row for row in rows if not row.made], [row for row in rows if row.made]
    if not brought or not made or brought[0].role == "forget":
        return framed_rows(rows, around, count, seed)
    half = count // 2
    return [*framed_rows(brought, around, half, seed), *framed_rows(made, around, count - half, seed)]


def _order(name: str) -> str:
    return hashlib.sha256(f"begun {name}".encode()).hexdigest()


def _rest(context: FitContext, row: Row, prompt: Prompt) -> tuple[int, ...]:
    """The row's own reply after the prefill of the prompt."""
    response = context.chat.encode(replace(row, prefix=None, history=())).response
    if row.prefix is None:
        return response
    longest = min(len(response), len(prompt.ids))
    for size in range(longest, 0, -1):
        for first in range(len(response) - size + 1):
            if response[first : first + size] == prompt.ids[-size:]:
                return response[first + size :]
    return response


def _secret_start(context: FitContext, row: Row, response: Sequence[int]) -> int:
    return secret_start(context.host.tokenizer, response, row.secrets or (row.answer,))


def _bag(
    row: Row, kind: str, prompt: Prompt, response: Sequence[int], secret_at: int | None, plan: BagPlan
) -> Bag:
    sequence = Encoded(prompt, tuple(response))
    stop = len(sequence) if secret_at is None else sequence.prompt_end + secret_at + 1
    return Bag(row, kind, sequence, min(stop, plan.longest))


def _bare(context: FitContext, rows: Sequence[Row], count: int) -> list[tuple[str, Row, Prompt]]:
    """Questions without the chat template."""
    image = getattr(context.host.processor, "image_token", None)
    found = []
    for row in spread_by_id(rows, count):
        if row.image is not None and image is None:
            continue
        single = replace(row, history=(), prefix=None)
        text = row.question if row.image is None else f"{image} {row.question}"
        found.append(("bare", single, reworded(context, context.chat.prompt(single), text)))
    return found


def _two_pictures(
    context: FitContext, rows: Sequence[Row], around: Surroundings, count: int, draw: random.Random
) -> list[tuple[str, Row, Prompt]]:
    """A retain row's image before or after the row's own."""
    image = getattr(context.host.processor, "image_token", None)
    seen = [row for row in rows if row.image is not None and not row.history]
    others = [row.image for row in around.kept if row.image is not None]
    if image is None or not seen or not others:
        return []
    found = []
    for row in (draw.choice(seen) for _ in range(count)):
        prompt, other = context.chat.prompt(row), draw.choice(others)
        pictures = [*prompt.images, other]
        draw.shuffle(pictures)
        text = prompt.text.replace(image, image * 2, 1)
        found.append(("two_pictures", row, reworded(context, prompt, text, pictures)))
    return found


def reworded(context: FitContext, prompt: Prompt, text: str, images: Sequence[Path] | None = None) -> Prompt:
    """The prompt with another text, and pictures where given."""
    shown = prompt.images if images is None else tuple(images)
    ids = context.chat.tokenize(text, shown)["input_ids"][0]
    return Prompt(text, tuple(int(token) for token in ids), shown)


def _cut(bag: Bag) -> Encoded:
    """The sequence as far as it is read."""
    prompt = bag.sequence.prompt
    return replace(bag.sequence, response=bag.sequence.response[: max(bag.stop - len(prompt.ids), 0)])
