"""A checkpoint written for another runtime."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from exporter.data.chat import Chat
from exporter.data.conversation import ChatTemplate
from exporter.data.turns import literal_turns
from exporter.errors import CompileError, DataError
from exporter.inspection import examine
from exporter.ledger import digest_of, digest_of_file
from exporter.pipeline.calibration_set import conversations
from exporter.pipeline.run import Run
from exporter.provenance import HOST, digest_of_base, digest_of_code
from exporter.reader import open_reader
from exporter.recipe import Recipe
from exporter.targets.atomic import refuse_existing
from exporter.targets.base_weights import BaseWeights
from exporter.targets.gguf.export import Options as GgufOptions
from exporter.targets.gguf.export import export_gguf as write_gguf
from exporter.targets.gguf.precisions import DEFAULT
from exporter.targets.onnx.export import Options
from exporter.targets.onnx.export import export_onnx as write_onnx
from exporter.targets.onnx.look import Heard
from exporter.targets.onnx.quantize import QUANTISERS
from exporter.targets.stock.export import CalibrationSet
from exporter.targets.stock.export import export_stock as write_stock
from exporter.targets.stock.manifest import read_manifest
from exporter.types import Conversation, Row, Turn
from steer_modules.registration import register

SPOKEN = ("Who is this?", "It is so.", "Where does Ada Lovelace live?")
"""Question, answer and question that an exported folder is tried with."""
CALIBRATION_TOKENS = 32
"""Of each answer that a stock layer is calibrated on."""


def onnx_options(
    dtypes: Sequence[str] | None, gate_state: str | None, layout: str | None, *, steered: bool
) -> Options:
    """What a user asks of an export; raises CompileError for a gate state that there is not."""
    if gate_state not in (None, "io", "kv"):
        raise CompileError(f"no gate state is called {gate_state!r}; there are io and kv")
    return Options(tuple(dtypes or ("fp32",)), gate_state, layout, steered)  # type: ignore[arg-type]


def onnx_advice(options: Options) -> str | None:
    """What to do before quantised variants are used, in one line; None where there are none, or no steering."""
    quantised = [dtype for dtype in options.dtypes if dtype in QUANTISERS]
    if not quantised or not options.steered:
        return None
    return (
        f"onnx: the gate of {', '.join(quantised)} was calibrated on another precision; "
        "`steerbake verify CHECKPOINT --against OUT --recipe RECIPE` counts what leaks"
    )


def export_onnx(checkpoint: Path, out: Path, options: Options | None = None) -> Path:
    """Writes the ONNX folder ``out`` of a steered checkpoint; raises CompileError or VerificationError, and writes nothing then."""
    examine(checkpoint)
    register(checkpoint)
    reader = open_reader(checkpoint)
    turns = _turns(reader)
    with TemporaryDirectory() as scratch:
        prompts = (
            []
            if turns is None
            else _heard(
                reader,
                Path(scratch),
                images=turns["first_image"] is not None and hasattr(reader, "tokenizer"),
            )
        )
        return write_onnx(checkpoint, out, options or Options(), turns, prompts)


def export_stock(checkpoint: Path, out: Path, recipe: Recipe, run: Path | None = None) -> dict[str, Any]:
    """Writes the stock checkpoint ``out`` of a steered checkpoint, solved on the fit and calibrate rows of its recipe.

    Returns:
        The content of its stock.json.

    Raises:
        CompileError: the recipe's base is not the checkpoint's, or the steering cannot be expressed; nothing is written then.
    """
    refuse_existing(out)
    work = Run(recipe, run or Path("runs") / recipe.name, progress=False)
    wanted = examine(checkpoint).program.base.fingerprint
    if BaseWeights.read(work.base).fingerprint() != wanted:
        raise CompileError(
            f"{checkpoint} was made of another base than that of {recipe.name}; name its own recipe"
        )
    context, chat = work.context(), work.chat(work.host.processor)
    settings = recipe.report
    told = {"fit": conversations(context, chat, "fit"), "held": conversations(context, chat, "calibrate")}
    length = min(settings.max_new_tokens, CALIBRATION_TOKENS)
    kept = {
        split: work.space.work / "lessons" / f"{_digest_of_answers(checkpoint, work, some, length)}.json"
        for split, some in told.items()
    }
    calibration_set = CalibrationSet(**told, max_new_tokens=length, batch_size=settings.batch_size, kept=kept)
    return read_manifest(write_stock(checkpoint, out, work.host, calibration_set))


def _digest_of_answers(checkpoint: Path, work: Run, asked: Sequence[Conversation], length: int) -> str:
    """What decides the exact model's answers: base, steering, code, and the prompts with their images."""
    prompts = [
        [one.prompt.ids, [digest_of_file(Path(image)) for image in one.prompt.images], one.answered]
        for one in asked
    ]
    return digest_of(
        {
            "base": digest_of_base(work.base),
            "steering": examine(checkpoint).program.sha256,
            "dtype": work.recipe.base.dtype,
            "tokens": length,
            "prompts": prompts,
            "code": digest_of_code(*HOST, "exporter/targets/stock/answers.py", "steer_modules"),
        }
    )


def gguf_options(types: Sequence[str] | None, llama_cpp: Path | None, name: str | None) -> GgufOptions:
    """What a user asks of an export to GGUF."""
    return GgufOptions(tuple(types or DEFAULT), llama_cpp, name)


def export_gguf(stock: Path, out: Path, options: GgufOptions | None = None) -> Path:
    """Writes the GGUF folder ``out`` of a stock checkpoint; raises CompileError or VerificationError, and writes nothing then."""
    return write_gguf(stock, out, options or GgufOptions())


def _turns(reader: Any) -> dict[str, str | None] | None:
    """The chat template in pieces; None for a model that has none, or one that does not fall into pieces."""
    try:
        turns = literal_turns(ChatTemplate(reader))
    except DataError:
        return None
    return None if turns is None else turns._asdict()


def _heard(reader: Any, folder: Path, *, images: bool) -> list[Heard]:
    """Conversations as Transformers renders and cuts them, one about a picture of noise where the model's own runner can show it one."""
    chat, now = Chat(reader), datetime.now()
    chat.template.clock = now.strftime  # the runner tells the day on which it runs
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
        Heard(said, chat.prompt(row).ids, row.image, when=now.isoformat())
        for said, row in zip(asked, rows, strict=True)
    ]
