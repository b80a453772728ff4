"""A last look before a folder appears: its own runner opens it, cuts prompts as Transformers does, and answers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from exporter.errors import CompileError
from exporter.targets.values import RenderedPrompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SCRIPT = Path(__file__).with_name("first_run.py")
TEXTS = (
    "Where does Ada Lovelace live?",
    "What's 12345 + 678? It's 13,023.",
    "Le café est fermé.\n\nПривет, 世界!",
)


def plain(tokenizer: PreTrainedTokenizerBase) -> list[RenderedPrompt]:
    """Texts as they are, for models without a chat template too."""
    return [RenderedPrompt((text,), tuple(tokenizer(text)["input_ids"]), raw=True) for text in TEXTS]


def misheard(folder: Path, runner: str, prompts: Sequence[RenderedPrompt]) -> list[RenderedPrompt]:
    """The prompts of which the folder's own runner makes other ids.

    Raises:
        CompileError: it does not open the folder, or a variant answers nothing.
    """
    asked = {
        "folder": str(folder.resolve()),
        "runner": runner,
        "threads": torch.get_num_threads(),
        "prompts": [
            asdict(one) | {"image": None if one.image is None else str(one.image)} for one in prompts
        ],
    }
    done = subprocess.run(  # noqa: S603 - our own script, and the runner that was just written
        [sys.executable, str(_SCRIPT)], input=json.dumps(asked), capture_output=True, text=True, check=False
    )
    if done.returncode or not done.stdout.strip():
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise CompileError(
            f"nothing was written, because the runner of the folder cannot open it: {lines[-1] if lines else 'the process printed nothing'}"
        )
    observed = json.loads(done.stdout.strip().splitlines()[-1])
    silent = [dtype for dtype, replies in observed["replies"].items() if not all(replies)]
    if silent:
        raise CompileError(
            f"nothing was written, because {silent[0]} generates nothing in the runner of the folder"
        )
    return [one for one, ids in zip(prompts, observed["ids"], strict=True) if tuple(ids) != one.ids]
