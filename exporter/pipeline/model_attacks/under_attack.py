"""What attacks are made on: a steered model beside its base, the rows that both are asked, and where their answers are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, cast, get_args

from exporter.data.chat import Chat
from exporter.evaluation.attacks.base import Attack, is_plain
from exporter.evaluation.attacks.no_template import Bare
from exporter.evaluation.case import Case
from exporter.evaluation.conversations import Renders, generate_responses
from exporter.evaluation.report import BASE
from exporter.fitting.selection import spread
from exporter.host import ModelHost
from exporter.pipeline.asked_rows import answered, replies
from exporter.pipeline.measured_models import MeasuredModel
from exporter.pipeline.model_attacks.base import NoRows, NotMeasured
from exporter.pipeline.row_checks import Room
from exporter.pipeline.row_records import RowRecords
from exporter.pipeline.run import Run
from exporter.reader import Processor, open_reader
from exporter.targets.values import Generator
from exporter.types import Role, Row

Side = Literal["base", "steered"]
SIDES: tuple[Side, ...] = ("base", "steered")


class PastTemplate(MeasuredModel):
    """A model that is asked without its chat template."""

    def chat(self, work: Run) -> Chat:
        return cast(Chat, Bare(super().chat(work)))  # it renders, which is all that asking needs


@dataclass
class UnderAttack:
    """A steered model and its base; one of them is in memory at a time.

    Attributes:
        work: the recipe's run, whose rows these are.
        models: by side.
        variant: of the steered model that is attacked; "" where there is only one.
        rows: test rows that are single questions, evenly from each role.
        folder: answers, results and pictures are kept in it.
        budget: trials of the adaptive search.
    """

    work: Run
    models: Mapping[Side, MeasuredModel]
    variant: str
    rows: Sequence[Row]
    folder: Path
    seed: int = 0
    budget: int = 200
    progress: bool = False

    @property
    def forget(self) -> list[Row]:
        """Plain forget rows; raises NoRows where there are none."""
        found = [row for row in self.rows if row.role == "forget"]
        if not found:
            raise NoRows("the recipe has no plain test row of role forget")
        return found

    def reader(self) -> Processor:
        """The base's processor, without its weights."""
        work = self.work
        return open_reader(work.base, trust_remote_code=work.recipe.base.trust_remote_code)

    def chat(self) -> Chat:
        """Prompts as the recipe wants them, without a model in memory."""
        return self.work.chat(self.reader())

    @cached_property
    def room(self) -> Room:
        """What the model has place for, by the base's config."""
        import transformers

        work = self.work
        config = transformers.AutoConfig.from_pretrained(
            work.base, trust_remote_code=work.recipe.base.trust_remote_code
        )
        return Room.of(config, work.recipe.report.max_new_tokens)

    def fits(self, row: Row, renders: Renders) -> bool:
        """Whether prompt and reply have place in the model; a conversation that it is still to answer itself is taken for one that does."""
        if self.room.positions is None or any(turn.answer is None for turn in row.history):
            return True
        return len(renders.prompt(row).ids) + self.room.new_tokens <= self.room.positions

    def alone(self, side: Side) -> None:
        """Lets go of the other side."""
        for other in SIDES:
            if other != side:
                self.close(other)

    def generator(self, side: Side) -> Generator:
        """What generates for one side, and the other let go."""
        self.alone(side)
        return self.models[side].opened.generators["" if side == BASE else self.variant]

    def host(self, side: Side) -> ModelHost:
        """One side in memory, and the other let go.

        Raises:
            NotMeasured: the steered model is no PyTorch model.
        """
        self.alone(side)
        found = self.models[side].host
        if found is None:
            raise NotMeasured(
                f"what the target {self.models[side].kind} wrote gives no states or scores; attack the checkpoint that it was made from"
            )
        return found

    def close(self, side: Side) -> None:
        """Lets go of one side: its weights are as in its files when it is next asked for."""
        self.models[side].close()
        if side == BASE:
            self.work.forget_base()

    @cached_property
    def _said(self) -> Mapping[Side, RowRecords]:
        """What each side has said; read once, for there are as many lines as all ways of asking together have made."""
        return {side: replies(self.folder / f"{side}.jsonl") for side in SIDES}

    def ask(self, side: Side, rows: Sequence[Row], *, past_template: bool = False) -> list[Case]:
        """One side's replies to rows, in their order; only what was not asked before.

        Rows to forget are in batches of their own: a batch takes as long as its longest reply, and refusals are short.
        """
        self.alone(side)
        model = self.models[side]
        asked = model if not past_template else _past_template(model)
        sides = [[row for row in rows if (row.role == "forget") == about] for about in (True, False)]
        variant, records = "" if side == BASE else self.variant, self._said[side]
        found = [
            answered(asked, variant, some, self.work, records, progress=self.progress)
            for some in sides
            if some
        ]
        cases = {case.row.id: case for some in found for case in some}
        return [cases[row.id] for row in rows]


def asked_of(host: ModelHost, under: UnderAttack, rows: Sequence[Row], name: str) -> list[Case]:
    """Replies of a model that was changed for an attack; they are kept nowhere but in its result."""
    lengths = under.work.recipe.report.model_dump(include={"max_new_tokens", "batch_size"})
    chat = under.work.chat(host.processor)
    return generate_responses(host, rows, chat, name=name, folder=under.work.space.out, **lengths)


def _past_template(model: MeasuredModel) -> MeasuredModel:
    found = PastTemplate(model.name, model.kind, model.path, model.digest, model.load, model.single)
    found.__dict__["opened"] = model.opened
    return found


def attacked(attack: Attack, rows: Sequence[Row], chat: Chat) -> list[Row]:
    """What an attack makes of rows, with its name as their slice.

    Raises:
        NoRows: nothing about the forget set, with what it would need.
    """
    made = [replace(row, eval_slice=attack.name) for row in attack.rows(rows, chat)]
    if not any(row.role == "forget" for row in made):
        raise NoRows(f"no forget row can be attacked this way: {_lacking(attack, rows, chat)}")
    return made


def _lacking(attack: Attack, rows: Sequence[Row], chat: Chat) -> str:
    """What an attack that makes no row may have missed."""
    about = [row for row in rows if row.role == "forget"]
    if not about:
        return "there is no plain forget row"
    if getattr(attack, "group", "") == "pictures" and not any(row.image for row in rows):
        return "no row has a picture"
    if attack.name.startswith("system") and not chat.takes_system:
        return "the chat template takes no system prompt"
    if attack.name.endswith(("think", "reasoning_prefill")) and not chat.format.reasons:
        return "the recipe's chat.reasoning_template has no reasoning"
    return "it needs something that these rows do not have (docs/attacks.md)"


def sampled(rows: Sequence[Row], limit: int) -> list[Row]:
    """Single questions in no slice, evenly from all: at most ``limit`` to forget, as many to keep, and as many of role unknown.

    A third of those to keep are of general reasoning, where there are as many. Rows of role unknown are not asked; attacks refuse in their words.
    """
    by_role: dict[str, list[Row]] = {role: [] for role in get_args(Role)}
    for row in rows:
        if is_plain(row) and row.eval_slice is None:
            by_role[row.role].append(row)
    general = min(len(by_role["reasoning"]), max(limit // 3, limit - len(by_role["retain"])))
    most = {"forget": limit, "retain": limit - general, "reasoning": general, "unknown": limit}
    return [row for role, some in by_role.items() for row in spread(some, most[role])]


def asked_rows(rows: Sequence[Row], retain: int | None = None) -> list[Row]:
    """Those that a figure is counted over, and of those to keep at most ``retain``, evenly from all."""
    forget = [row for row in rows if row.role == "forget"]
    kept = [row for row in rows if row.role not in ("forget", "unknown")]
    return [*forget, *(kept if retain is None else spread(kept, retain))]
