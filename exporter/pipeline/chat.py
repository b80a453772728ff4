"""A conversation with a checkpoint or an exported folder."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from exporter.data.chat import Chat
from exporter.errors import InputErrors
from exporter.host import Generated, Memory, ModelHost
from exporter.reader import open_reader
from exporter.targets.onnx.host import OnnxHost
from exporter.targets.onnx_runner import MANIFEST, Sampling
from exporter.targets.stock.manifest import checked_manifest, is_stock
from exporter.types import Row, Turn
from steer_modules.registration import register

TORCH_DTYPES = ("float32", "float16", "bfloat16")


class Talk:
    """One conversation; each question is put with all that was said before it.

    Args:
        generator: the model.
        chat: renders the conversation.
        sampling: how tokens are chosen.
        image: shown with the first question.
    """

    def __init__(
        self, generator: ModelHost | OnnxHost, chat: Chat, sampling: Sampling, image: Path | None = None
    ) -> None:
        self.generator, self.chat, self.sampling, self.image = generator, chat, sampling, image
        self.history: tuple[Turn, ...] = ()
        self.memory = Memory()
        self.state = generator.model.empty(1) if isinstance(generator, OnnxHost) else None

    def say(self, question: str, write: Callable[[str], None], max_new_tokens: int) -> Generated:
        """Asks, writes the reply as it comes, and remembers both."""
        image = None if self.history else self.image
        row = Row("chat", question, "-", "retain", image=image, history=self.history)
        pieces = _Pieces(self.generator.tokenizer, write)
        said = self._stream(self.chat.prompt(row), pieces, max_new_tokens)
        pieces.flush()
        self.history += (Turn(question, pieces.text, image=image),)
        return said

    def _stream(self, prompt: Any, pieces: _Pieces, max_new_tokens: int) -> Generated:
        if isinstance(self.generator, OnnxHost):
            return self.generator.stream(
                prompt,
                pieces.add,
                max_new_tokens=max_new_tokens,
                sampling=self.sampling,
                state=self.state,
            )
        asked = self.sampling
        choice = {"temperature": asked.temperature, "top_p": asked.top_p, "top_k": asked.top_k}
        return self.generator.stream(
            prompt,
            pieces.add,
            max_new_tokens=max_new_tokens,
            memory=self.memory,
            **(choice if asked.temperature > 0 else {}),
        )


def talk(
    folder: Path,
    *,
    image: Path | None = None,
    dtype: str | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    say: Callable[[str], None],
) -> Talk:
    """Opens a steered checkpoint or a folder of graphs for a conversation; ``say`` is told what runs where.

    Raises:
        InputErrors: the folder is neither.
        FolderError: the folder of graphs is not whole.
    """
    sampling = Sampling(temperature, top_p=top_p)
    if (folder / MANIFEST).is_file():
        processor = open_reader(folder)
        generator: ModelHost | OnnxHost = OnnxHost.load(folder, processor, dtype=dtype, say=say)
    elif (folder / "config.json").is_file():
        _open(folder)
        if dtype not in (None, *TORCH_DTYPES):
            raise InputErrors(
                "--dtype", [f"a checkpoint runs in {', '.join(TORCH_DTYPES)}, not in {dtype!r}"]
            )
        generator = ModelHost.load(folder, dtype=getattr(torch, dtype) if dtype else "auto")
        say(f"{folder} ({generator.dtype}) runs on PyTorch, {generator.device}".replace("torch.", ""))
    else:
        raise InputErrors(str(folder), ["neither a steered checkpoint nor an exported folder is there"])
    chat = Chat(generator.processor)
    chat.template.clock = datetime.now().strftime  # whoever talks is told today's day, as in Transformers
    return Talk(generator, chat, sampling, image)


def _open(folder: Path) -> None:
    """Makes a steered checkpoint loadable, and sees that a stock one is whole; raises InputErrors where it is neither."""
    if is_stock(folder):
        checked_manifest(folder)
        return
    try:
        register(folder)
    except ValueError as error:
        raise InputErrors(
            str(folder), [f"{error}; name a steered checkpoint or an exported folder"]
        ) from error


class _Pieces:
    """Text of a reply as its tokens come: only whole characters are written."""

    def __init__(self, tokenizer: Any, write: Callable[[str], None]) -> None:
        self.tokenizer, self.write = tokenizer, write
        self.ids: list[int] = []
        self.text = ""

    def add(self, token: int) -> None:
        self.ids.append(token)
        text = str(self.tokenizer.decode(self.ids, skip_special_tokens=True))
        if not text.endswith("\ufffd"):
            self._show(text)

    def flush(self) -> None:
        self._show(str(self.tokenizer.decode(self.ids, skip_special_tokens=True)))

    def _show(self, text: str) -> None:
        self.write(text[len(self.text) :])
        self.text = text
