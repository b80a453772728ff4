"""A conversation with a checkpoint or an exported folder."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from exporter import registry
from exporter.data.chat import Chat
from exporter.host import Generated
from exporter.pipeline.sources import why_silent
from exporter.publish.files import CHECKPOINT
from exporter.targets.values import ChatModel, Sampling
from exporter.types import Row, Turn


class Talk:
    """One conversation; each question is asked with all earlier turns.

    Args:
        model: remembers what it has computed of the conversation.
        chat: renders the conversation.
        sampling: how tokens are chosen.
        image: shown with the first question.
    """

    def __init__(self, model: ChatModel, chat: Chat, sampling: Sampling, image: Path | None = None) -> None:
        self.model, self.chat, self.sampling, self.image = model, chat, sampling, image
        self.history: tuple[Turn, ...] = ()

    def say(self, question: str, write: Callable[[str], None], max_new_tokens: int) -> Generated:
        """Asks, writes the reply as it comes, and remembers both."""
        image = None if self.history else self.image
        row = Row("chat", question, "-", "retain", image=image, history=self.history)
        pieces = _Pieces(self.model.tokenizer, write)
        said = self.model.stream(
            self.chat.prompt(row), pieces.add, max_new_tokens=max_new_tokens, sampling=self.sampling
        )
        pieces.flush()
        self.history += (Turn(question, pieces.text, image=image),)
        return said


def talk(
    folder: Path,
    *,
    image: Path | None = None,
    dtype: str | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    say: Callable[[str], None],
) -> Talk:
    """Opens a steered checkpoint or an exported folder for a conversation; ``say`` is called with the folder and device.

    Raises:
        InputErrors: the folder is neither.
        VerificationError, FolderError: the folder is not whole.
    """
    kind = registry.kind_of(folder)
    if kind is None and (folder / "config.json").is_file():
        kind = CHECKPOINT  # its error states what is missing
    model = None if kind is None else registry.target(kind).chat(folder, dtype=dtype, say=say)
    if model is None:
        raise why_silent(None if kind is None else registry.target(kind), folder)
    chat = Chat(model.processor)
    chat.template.clock = datetime.now().strftime  # a chat uses today's date, as in Transformers
    return Talk(model, chat, Sampling(temperature, top_p), image)


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
