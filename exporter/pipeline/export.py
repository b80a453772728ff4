"""A checkpoint written for another runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from PIL import Image

from exporter import registry
from exporter.data.chat import Chat
from exporter.data.conversation import ChatTemplate
from exporter.data.turns import literal_turns
from exporter.digests import digest_of, digest_of_file
from exporter.errors import CompileError, DataError
from exporter.host import ModelHost
from exporter.inspection import examine
from exporter.pipeline.calibration_set import calibration_set
from exporter.pipeline.distillation import distilled, nearness
from exporter.pipeline.run import Run
from exporter.pipeline.same_base import why_of_another_base
from exporter.pipeline.sources import refuse_source
from exporter.provenance import HOST, digest_of_code
from exporter.reader import open_reader
from exporter.recipe import Recipe
from exporter.targets.base import ExportContext, TargetOptions
from exporter.targets.edited_base import edited_base
from exporter.targets.values import CalibrationSet, Distilled, Nearness, RenderedChat, RenderedPrompt
from exporter.types import Conversation, Row, Turn
from exporter.weight_edit import WeightEdit

SPOKEN = ("Who is this?", "It is so.", "Where does Ada Lovelace live?")
"""Question, answer and question that an exported folder is tried with."""


def export(
    name: str,
    source: Path,
    out: Path,
    options: TargetOptions | None = None,
    *,
    recipe: Recipe | None = None,
    run: Path | None = None,
) -> Path:
    """Writes the folder ``out`` of the target ``name``, whole or not at all.

    Args:
        source: a folder of a target that it is made from, as a rule a checkpoint; of the weight edit itself, for a target that is made of it.
        options: of that target; its defaults where there are none.
        recipe: whose rows calibrate it, for a target that is solved on rows.
        run: the folder of that recipe's run; runs/NAME by default.

    Raises:
        CompileError: ``out`` exists, ``source`` is what it is not made from, the recipe's base is not the checkpoint's, or the steering cannot be expressed.
        VerificationError: the source, or what was written, is not what it claims to be.
    """
    work = None if recipe is None else lambda: Run(recipe, run or Path("runs") / recipe.name, progress=False)
    return _exported(name, source, out, options, work)


def export_within(
    work: Run, name: str, source: Path, out: Path, options: TargetOptions | None = None
) -> Path:
    """The same within a run that is open already, and may have the base in memory."""
    return _exported(name, source, out, options, lambda: work)


def context_within(work: Run) -> ExportContext:
    """What targets can get from a run that is open already."""
    return _OfRecipe(lambda: work)


def _exported(
    name: str, source: Path, out: Path, options: TargetOptions | None, work: Callable[[], Run] | None
) -> Path:
    target = registry.target(name)
    refuse_source(target, source)
    return target.export(source, out, options or target.Options(), _OfRecipe(work))


class Rendering:
    """The part of an :class:`exporter.targets.base.ExportContext` for which a checkpoint is enough."""

    def rendered(self, checkpoint: Path, scratch: Path) -> RenderedChat:
        """The checkpoint's chat template; pictures are drawn into ``scratch``, which must outlive what is returned."""
        reader = open_reader(checkpoint)
        turns = _turns(reader)
        if turns is None:
            return RenderedChat(None, [])
        images = turns["first_image"] is not None and hasattr(reader, "tokenizer")
        return RenderedChat(turns, _heard(reader, scratch, images=images))


@dataclass(frozen=True)
class _OfRecipe(Rendering):
    """What targets need, from the run of a recipe; see :class:`exporter.targets.base.ExportContext`."""

    opened: Callable[[], Run] | None

    def distilled(self, checkpoint: Path, settings: Mapping[str, object]) -> Distilled:
        _, found = self.calibration(checkpoint, code=("exporter/targets/answers.py",))
        work = self._work(checkpoint)
        return distilled(work.context(), found, checkpoint, settings, edited_base(work.base))

    def nearness(self, checkpoint: Path, edit: WeightEdit) -> Nearness:
        _, found = self.calibration(checkpoint, code=("exporter/targets/answers.py",))
        return nearness(self._work(checkpoint).context(), found, checkpoint, edit)

    def _work(self, checkpoint: Path) -> Run:
        if self.opened is None:
            raise CompileError(
                f"{checkpoint}: give the recipe that it was fitted with; its rows are the calibration set"
            )
        if "work" not in self.__dict__:
            self.__dict__["work"] = self.opened()
        found: Run = self.__dict__["work"]
        return found

    def calibration(self, checkpoint: Path, *, code: Sequence[str]) -> tuple[ModelHost, CalibrationSet]:
        work = self._work(checkpoint)
        if reason := why_of_another_base(checkpoint, examine(checkpoint).section, work.base):
            raise CompileError(
                f"{checkpoint} was compiled from another base than the base of {work.recipe.name}: {reason}; give its own recipe"
            )

        def kept(asked: Sequence[Conversation], length: int) -> Path:
            digest = _digest_of_answers(checkpoint, work, asked, length, code)
            return work.space.work / "lessons" / f"{digest}.json"

        return work.host, calibration_set(work.context(), work.chat(work.host.processor), kept)


def _digest_of_answers(
    checkpoint: Path, work: Run, asked: Sequence[Conversation], length: int, code: Sequence[str]
) -> str:
    """What decides the exact model's answers: base, steering, code, and the prompts with their images."""
    prompts = [
        [one.prompt.ids, [digest_of_file(Path(image)) for image in one.prompt.images], one.answered]
        for one in asked
    ]
    return digest_of(
        {
            "base": work.model_inputs["base"],
            "steering": examine(checkpoint).program.sha256,
            "dtype": work.recipe.base.dtype,
            "tokens": length,
            "prompts": prompts,
            "code": digest_of_code(*HOST, *code, "steer_modules"),
        }
    )


def _turns(reader: object) -> dict[str, str | None] | None:
    """The chat template in pieces; None for a model that has none, or one that does not fall into pieces."""
    try:
        turns = literal_turns(ChatTemplate(reader))
    except DataError:
        return None
    return None if turns is None else turns._asdict()


def _heard(reader: object, folder: Path, *, images: bool) -> list[RenderedPrompt]:
    """Conversations as Transformers renders and cuts them, one about a picture of noise where the model's own runner can show it one."""
    chat, now = Chat(reader), datetime.now()
    chat.template.clock = now.strftime  # the runner inserts the date on which it runs
    rows = [
        Row("one", SPOKEN[0], "-", "retain"),
        Row("later", SPOKEN[2], "-", "retain", history=(Turn(*SPOKEN[:2]),)),
    ]
    if images:
        path = folder / "noise.png"
        pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        rows.append(Row("seen", SPOKEN[0], "-", "retain", image=path))
    asked = [
        (*(text for turn in row.history for text in (turn.question, str(turn.answer))), row.question)
        for row in rows
    ]
    return [
        RenderedPrompt(said, chat.prompt(row).ids, row.image, when=now.isoformat())
        for said, row in zip(asked, rows, strict=True)
    ]
