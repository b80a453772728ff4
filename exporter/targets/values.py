"""What targets and the rooms that use them hand to each other; light, like the contract itself (:mod:`exporter.targets.base`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from exporter.digests import digest_of_file

if TYPE_CHECKING:
    from exporter.host import Generated, ModelHost
    from exporter.types import Conversation, Prompt
    from exporter.weight_edit import WeightEdit

NEW_TOKENS = 12
"""Of each reply that a clean environment is held to."""
EXPORT_AGAIN = "export it again from this checkpoint"


class Finding(NamedTuple):
    """What came of one check.

    Attributes:
        message: a sentence; where the check fails, with what to do.
        value: what was measured, as plain data.
    """

    holds: bool
    message: str
    value: object


class Completions(NamedTuple):
    """Prompts without images, and the few tokens that our own code generates after each, greedily."""

    prompts: Sequence[Prompt]
    tokens: Sequence[tuple[int, ...]]

    @classmethod
    def of(cls, generator: Generator, prompts: Sequence[Prompt]) -> Completions:
        """Generations of a model for prompts without images, each separately."""
        replies = [generator.generate([one], max_new_tokens=NEW_TOKENS)[0].tokens for one in prompts]
        return cls(tuple(prompts), tuple(tuple(reply) for reply in replies))


class Completion(Protocol):
    """Greedy ids of one prompt, with the gates that were decided."""

    @property
    def tokens(self) -> tuple[int, ...]: ...

    @property
    def gates(self) -> Mapping[str, float] | None: ...


class Generator(Protocol):
    """What is needed of a model: greedy continuations in the order of the prompts, and a tokenizer."""

    @property
    def tokenizer(self) -> Decodes: ...

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, batch_size: int = 32
    ) -> Sequence[Completion]: ...


class Sampler(Protocol):
    """What can draw replies beside generating them greedily; a runtime without it is measured greedily alone."""

    @property
    def tokenizer(self) -> Decodes: ...

    def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        draws: int,
        temperature: float,
        seed: int,
        max_new_tokens: int,
        batch_size: int = 32,
    ) -> Sequence[Sequence[Completion]]: ...


class Decodes(Protocol):
    """Text of ids."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str: ...


class ChatModel(Protocol):
    """A conversation with cache: each prompt continues the earlier ones."""

    @property
    def processor(self) -> object: ...

    @property
    def tokenizer(self) -> object: ...

    def stream(
        self, prompt: Prompt, write: Callable[[int], None], *, max_new_tokens: int, sampling: Sampling
    ) -> Generated: ...


class Sampling(NamedTuple):
    """How the next token is chosen: greedily where ``temperature`` is 0."""

    temperature: float = 0.0
    top_p: float = 1.0


class Parity(NamedTuple):
    """How a target is compared with the checkpoint, in addition to the share of equal replies.

    Attributes:
        logits: its logits and gates are compared too, step by step; its generators have ``replay``.
        least_same: share of replies that must equal the checkpoint's, token for token; None for no condition.
    """

    logits: bool = False
    least_same: float | None = None


class FileKind(NamedTuple):
    """What files of a pattern hold; ``minor`` ones are only a part of what loads the others."""

    pattern: str
    holds: str
    minor: bool = False


class Summary(NamedTuple):
    """The summary of a folder without a readable program: data, and the same as a table and a line."""

    data: Mapping[str, object]
    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    line: str


@dataclass(frozen=True)
class UsageSnippet:
    """How one target is loaded.

    Attributes:
        title: the runtime's name.
        language: of the code block.
        code: three lines.
        note: what the reader must know of this target.
    """

    target: str
    title: str
    language: str
    code: str
    note: str


class Place(Protocol):
    """Where a published folder is found: a repository at a pinned revision, or a folder on a disk (``repo_id`` None)."""

    @property
    def repo_id(self) -> str | None: ...

    def pretrained(self, options: str = "") -> str:
        """Arguments of ``from_pretrained``."""
        ...

    def base_pretrained(self) -> str:
        """The same of the base that an adapter belongs onto."""
        ...

    def base_adapters(self) -> tuple[str, ...]:
        """The same of every adapter that is merged into that base first, in order."""
        ...

    def download(self, subfolder: str) -> str:
        """The line that downloads one folder of the repository."""
        ...

    def within(self, subfolder: str, name: str) -> str:
        """A file of a downloaded target."""
        ...


class Reference(NamedTuple):
    """The model at the root of a release that a target must have been made of: its section, and itself in float32.

    Attributes:
        digest: hex SHA-256 of a file; of those that were read already when a verification began, without reading them again.
        base: folder of the model that it was made from; None where nobody has named it.
    """

    section: Mapping[str, object]
    host: ModelHost
    digest: Callable[[Path], str] = digest_of_file
    base: Path | None = None


@dataclass(frozen=True)
class LoadedTarget:
    """A target whose files are all there.

    Attributes:
        kind: the target's name.
        generators: by variant ("" if there is only one).
        details: what is recorded of it under ``parity``.
        wrong: what is wrong with it before anything is run: one sentence each.
        images: whether it can be shown any.
        forced: whether gates can be set from outside, where its logits are compared.
        base: folder of the model that it needs beside it, of a target that is no whole model.
        least_same: by variant, the share of replies that must equal the checkpoint's, in place of the one of the target's :class:`Parity`.
    """

    path: Path
    kind: str
    generators: Mapping[str, Generator]
    details: Mapping[str, object] = field(default_factory=dict)
    wrong: Sequence[str] = ()
    images: bool = True
    forced: bool = False
    base: Path | None = None
    least_same: Mapping[str, float] = field(default_factory=dict)


class Nearness(NamedTuple):
    """How far an adapter lies from a steered checkpoint: KL(checkpoint || adapter) in nats a token on held conversations, and how many those are.

    Attributes:
        forget: where a gate is on.
        kept: elsewhere.
    """

    forget: float
    forget_rows: int
    kept: float
    kept_rows: int


@dataclass(frozen=True)
class Distilled:
    """A pupil of a steered checkpoint.

    Attributes:
        method, sha256: of the checkpoint's program.
        forget, kept: KL(checkpoint || adapter) in nats a token of the replies to held conversations, where a gate is on and elsewhere.
        forget_rows, kept_rows: how many those are.
        forget_same, kept_same: shares of these replies that are the checkpoint's, token for token.
        form: how it was made, "switched" or "trained".
        conversations: how many it was trained on.
    """

    edit: WeightEdit
    method: str
    sha256: str
    forget: float
    forget_rows: int
    kept: float
    kept_rows: int
    forget_same: float
    kept_same: float
    conversations: int
    form: str

    @property
    def rank(self) -> int:
        """Of the adapter."""
        rank = self.edit.config["r"]
        assert isinstance(rank, int)
        return rank


@dataclass(frozen=True)
class RenderedPrompt:
    """One prompt as Transformers renders and cuts it.

    Attributes:
        said: questions and answers in turn, the last a question; if ``raw``, one text that is the prompt itself.
        ids: its tokens, an image's as often as it has features.
        image: a file, shown with the first question.
        when: the moment at which it is rendered, in ISO form; a template may contain the date.
    """

    said: tuple[str, ...]
    ids: tuple[int, ...]
    image: Path | None = None
    raw: bool = False
    when: str | None = None


class RenderedChat(NamedTuple):
    """A chat template in literal pieces (None where it does not fall into pieces), and prompts as it renders them."""

    turns: Mapping[str, str | None] | None
    prompts: Sequence[RenderedPrompt]


@dataclass(frozen=True)
class CalibrationSet:
    """Conversations that a target is solved on, and others that choices are made on; none that measures anything."""

    fit: Sequence[Conversation]
    held: Sequence[Conversation]
    max_new_tokens: int = 48
    batch_size: int = 32
    kept: Mapping[str, Path] = field(default_factory=dict)
    """Files, by name of the split, of what the exact model answers; written where they are missing."""
