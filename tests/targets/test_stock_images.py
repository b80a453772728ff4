"""Stock checkpoints of models that see: prompts with pictures are calibrated on, kept to the bit and steered like others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_stock
import torch
from PIL import Image
from tiny_stock import CALIBRATION_SET, bed, check, held_to

from exporter.host import ModelHost
from exporter.targets.stock.export import export_stock
from exporter.types import Conversation, Prompt

SIDE = 16


class Processor:
    """Text is ids, and a picture's pixels are what the model sees."""

    tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=2, bos_token=None)

    def __init__(self, frames: bool) -> None:
        self.frames = frames

    def __call__(self, text: list[str], images: list[Image.Image], **_: Any) -> dict[str, Any]:
        ids = torch.tensor([[int(one) for one in text[0].split()]])
        pixels = torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in images]) / 64 - 2
        return {"input_ids": ids, "pixel_values": pixels[None] if self.frames else pixels}


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    draw = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for path in paths:
        Image.fromarray(draw.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)
    return paths


@pytest.mark.parametrize("family", ["llava", "internvl", "smolvlm"])
def test_prompts_with_pictures(family, pictures, tmp_path, monkeypatch):
    def seeing(conversations: list[Conversation]) -> list[Conversation]:
        """Two of three with a picture behind the first token."""
        found = list(conversations)
        for number, one in enumerate(found):
            if number % 3 < 2:
                ids = (one.prompt.ids[0], *[tiny.IMAGE] * tiny.IMAGE_TOKENS, *one.prompt.ids[1:])
                shown = (pictures[number % len(pictures)],)
                found[number] = replace(one, prompt=Prompt(" ".join(map(str, ids)), ids, shown))
        return found

    drawn = tiny_stock.conversations
    monkeypatch.setattr(tiny_stock, "conversations", lambda count, seed: seeing(drawn(count, seed)))
    monkeypatch.setattr(
        tiny_stock, "host_of", lambda model: ModelHost(model, Processor(frames=family == "smolvlm"))
    )
    host, program, checkpoint = bed(family, tmp_path)
    calibration_set = replace(
        CALIBRATION_SET, fit=seeing(CALIBRATION_SET.fit), held=seeing(CALIBRATION_SET.held)
    )
    check(held_to(host, program, export_stock(checkpoint, tmp_path / "stock", host, calibration_set)))
