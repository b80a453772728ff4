"""Ask the model in batches, through its processor and chat template, greedily."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from benchmarks.testbed.draw import Pixels

CLOSE = "</think>"


@dataclass
class Chat:
    """What was said so far; the last message is the user's."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    images: list[Pixels] = field(default_factory=list)

    def user(self, question: str, image: Pixels | None) -> None:
        """Add a question, its picture first."""
        shown = [] if image is None else [{"type": "image"}]
        self.images += [] if image is None else [image]
        self.messages.append({"role": "user", "content": [*shown, {"type": "text", "text": question}]})

    def assistant(self, text: str) -> None:
        """Add what the model said."""
        self.messages.append({"role": "assistant", "content": text})


def answer_of(text: str) -> str:
    """What follows the reasoning."""
    return text.rpartition(CLOSE)[2].strip()


def complete(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    chats: Sequence[Chat],
    prefixes: Sequence[str] | None = None,
    batch: int = 64,
) -> list[str]:
    """The model's text for every chat, without the forced prefix; chats with pictures go apart."""
    starts = prefixes or [""] * len(chats)
    said = [""] * len(chats)
    for with_images in (False, True):
        group = [i for i, chat in enumerate(chats) if bool(chat.images) == with_images]
        for first in range(0, len(group), batch):
            part = group[first : first + batch]
            texts = _generate(model, processor, [chats[i] for i in part], [starts[i] for i in part])
            for i, text in zip(part, texts, strict=True):
                said[i] = text
    return said


@torch.inference_mode()
def _generate(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    chats: Sequence[Chat],
    starts: Sequence[str],
) -> list[str]:
    prompts = [
        processor.apply_chat_template(chat.messages, add_generation_prompt=True) + start
        for chat, start in zip(chats, starts, strict=True)
    ]
    images = [Image.fromarray(image) for chat in chats for image in chat.images]
    inputs = processor(
        text=prompts,
        return_tensors="pt",
        padding=True,
        add_special_tokens=False,
        **({"images": images} if images else {}),
    )
    new = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
    return processor.batch_decode(new, skip_special_tokens=True)
