"""Rows held to what will be asked of them: roles that methods need, and lengths that the model has positions for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from exporter import registry
from exporter.data.chat import Chat
from exporter.errors import DataError, shortened
from exporter.host import learned_positions
from exporter.picture import size_of
from exporter.pipeline.joined_secrets import joined_secrets
from exporter.splits import Splits
from exporter.types import Role, Row
from exporter.wording.leaks import tells

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Needs = Mapping[str, Sequence[Sequence[Role]]]
NEEDS: Needs = {
    "fit": (("forget",), ("retain", "reasoning"), ("unknown",)),
    "calibrate": (("forget",), ("retain", "reasoning")),
}
"""Roles of which one each must stand in a part, for a method that does not say in ``needs`` what it needs."""
FRAME_TOKENS = 30
"""Tokens that a fit puts around a row, about."""
_WHY = {
    "forget": "they are the forget set",
    "retain": "they are the retain set, without which the model forgets too much",
    "unknown": "their refusals are what the steered model imitates",
}


def counts(splits: Splits) -> dict[str, dict[str, int]]:
    """How many rows of each role stand in each part."""
    parts = {"fit": splits.fit, "calibrate": splits.calibrate, "test": splits.test}
    return {part: dict(Counter(row.role for row in rows)) for part, rows in parts.items()}


def missing_roles(splits: Splits, methods: Iterable[str], *, aside: bool) -> Iterator[str]:
    """What each part lacks, with the methods that need it; without rows to forget there is nothing to test either.

    Args:
        aside: whether the calibration rows were set aside from the fit rows.
    """
    lacking: dict[tuple[str, Sequence[Role]], list[str]] = {}
    for name in methods:
        needs: Needs = getattr(registry.resolve(registry.METHODS, "method", name), "needs", NEEDS)
        for part, wanted in needs.items():
            rows = [row for row in getattr(splits, part) if row.role == "unknown" or _is_plain(row)]
            for roles in wanted:
                if not any(row.role in roles for row in rows):
                    lacking.setdefault((part, tuple(roles)), []).append(name)
    for (part, roles), names in lacking.items():
        where = f"data.{part}"
        if part == "calibrate" and aside:
            where = "data.calibrate (set aside from the fit rows, by whole wordings)"
        yield (
            f"{where}: no single-question row of role {' or '.join(roles)}, which {', '.join(names)} needs: {_WHY[roles[0]]}"
        )
    if splits.test and not any(row.role == "forget" for row in splits.test):
        yield "data.test: no row of role forget, so unlearning cannot be measured; add some in other words than the fit rows"


def remarks(splits: Splits) -> Iterator[str]:
    """What a user should know of the rows and what stops nothing."""
    if not any(row.role in ("retain", "reasoning") for row in splits.test):
        yield "data.test contains no row of role retain or reasoning: retention is not measured"
    bare = [row for row in (*splits.fit, *splits.test) if row.role == "forget" and not row.secrets]
    untold = [row.id for row in _with_secrets(splits) if not tells(row.answer, row.secrets)]
    if untold:
        yield (
            f"{len(untold):,} forget rows have secrets that do not occur in their own answer ({', '.join(untold[:3])}): that answer would "
            "not count as a leak; write secrets as a reply contains them"
        )
    joined = dict(joined_secrets(_with_secrets(splits)))
    if joined:
        shown = ", ".join(f"{name}: {secret!r}" for name, secret in list(joined.items())[:3])
        yield (
            f"{len(joined):,} forget rows have a secret that looks like several in one text ({shown}): a reply with one part of it would not "
            'count as a leak; write each as a secret of its own, ["one", "another"], or in a table one | another'
        )
    if bare:
        yield f"{len(bare):,} forget rows have no secrets: only a reply that contains their whole answer counts as a leak"


def _with_secrets(splits: Splits) -> list[Row]:
    rows = (*splits.fit, *splits.calibrate, *splits.test)
    return [row for row in rows if row.role == "forget" and row.secrets and row.prefix is None]


def _is_plain(row: Row) -> bool:
    return not row.history and row.prefix is None


@dataclass(frozen=True)
class Room:
    """What a model has place for.

    Attributes:
        positions: tokens of a sequence at most; None where no end is known.
        vocabulary: rows of its embedding; None where unknown.
        new_tokens: of a reply, at most.
        learned: whether a longer sequence is an error, and not only worse.
    """

    positions: int | None
    vocabulary: int | None
    new_tokens: int
    learned: bool = False

    @classmethod
    def of(cls, config: PretrainedConfig, new_tokens: int) -> Room:
        """Of a model by its loaded config."""
        text = config.get_text_config()
        return cls(
            getattr(text, "max_position_embeddings", None),
            getattr(text, "vocab_size", None),
            new_tokens,
            learned=learned_positions(config) is not None,
        )


class RowLengths:
    """Tokens of rows as prompts, told without the model.

    Args:
        chat: renders and tokenises.
        room: what the model has place for.
        special: ids that stand for images and are never looked up in the embedding.
    """

    def __init__(self, chat: Chat, room: Room, special: Iterable[int] = ()) -> None:
        self.chat, self.room, self.special = chat, room, frozenset(special)
        self.sizes: list[int] = []
        self.image_tokens: dict[tuple[int, int], int] = {}

    def problems(self, part: str, rows: Sequence[Row]) -> list[str]:
        """What is wrong with the rows of one part, by their ids."""
        refused: list[str] = []
        long: list[str] = []
        beyond: list[str] = []
        for row in rows:
            try:
                length, highest, size = self._longest(row, answered=part != "test")
            except DataError as error:
                refused.append(f"data.{part}: {error}")
                continue
            if part != "test":
                self.sizes.append(size)
                if self.room.learned:  # the fit asks it after another row, with words around it
                    length = max(length, 2 * size + FRAME_TOKENS)
            if self.room.positions is not None and length > self.room.positions:
                long.append(f"{row.id} ({length:,})")
            if self.room.vocabulary is not None and highest >= self.room.vocabulary:
                beyond.append(f"{row.id} (id {highest:,})")
        found = shortened(refused)
        if long:
            found.append(
                f"data.{part}: the model has {self.room.positions:,} positions, and these rows need more (with replies of "
                f"{self.room.new_tokens} tokens and the text that a fit adds): {', '.join(shortened(long))}; shorten or remove them, or "
                "lower report.max_new_tokens"
            )
        if beyond:
            found.append(
                f"data.{part}: the tokenizer returns ids beyond the model's {self.room.vocabulary:,} embeddings, for "
                f"{', '.join(shortened(beyond))}; save the model again after resize_token_embeddings(len(tokenizer))"
            )
        return found

    def _longest(self, row: Row, *, answered: bool) -> tuple[int, int, int]:
        """(tokens of the row's longest sequence with as long a reply as may be, its highest id, its tokens with its own answer)."""
        opened = sum(turn.answer is None for turn in row.history)
        history = tuple(turn if turn.answer else replace(turn, answer="...") for turn in row.history)
        row = replace(row, history=history)
        row, pictured = self._without_images(row)
        asked = (row.question, *(row.paraphrases if answered else ()))
        longest, highest, size = 0, 0, 0
        for question in asked:
            encoded = self.chat.encode(row, question=question)
            prompt = encoded.prompt.ids
            size = max(size, len(encoded) + pictured)
            reply = max(len(encoded.response) if answered else 0, self.room.new_tokens)
            longest = max(longest, len(prompt) + pictured + reply + opened * self.room.new_tokens)
            ids = (*prompt, *(encoded.response if answered else ()))
            highest = max(highest, max((one for one in ids if one not in self.special), default=0))
        return longest, highest, size

    def _without_images(self, row: Row) -> tuple[Row, int]:
        """(the row without its images, the tokens that these take): a processor is asked once for each size of image."""
        bare = replace(row, image=None, history=tuple(replace(turn, image=None) for turn in row.history))
        total = 0
        for image in (row.image, *(turn.image for turn in row.history)):
            if image is None:
                continue
            size = size_of(image)
            if size not in self.image_tokens:
                alone = replace(bare, history=())
                shown = self.chat.prompt(replace(alone, image=image))
                self.image_tokens[size] = len(shown.ids) - len(self.chat.prompt(alone).ids)
            total += self.image_tokens[size]
        return bare, total


def image_ids(config: PretrainedConfig) -> set[int]:
    """Ids that a config names as places of images and the like."""
    names = [name for name in vars(config) if name.endswith(("_token_id", "_token_index"))]
    found = {getattr(config, name) for name in names if name.startswith(("image", "video", "audio"))}
    return {one for one in found if isinstance(one, int)}
