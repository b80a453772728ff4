"""A processor and a chat whose words are the token ids themselves, and hosts of tiny models that read them."""

from __future__ import annotations

import tiny
import torch
from PIL import Image

from exporter.fitting.context import FitContext
from exporter.host import ModelHost
from exporter.types import Encoded, Prompt

END = 2


class Numerals:
    """``"5 6 7"`` <-> ``[5, 6, 7]``; images become what the family's own processor would make of them."""

    pad_token_id, eos_token_id, bos_token = tiny.PAD, END, None

    def __init__(self, model_type="llama"):
        self.model_type = model_type

    def __call__(self, text, images=None, **_):
        ids = torch.tensor([[int(word) for word in text[0].split()]])
        out = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if images is None:
            return out
        pixels = torch.stack([self._pixels(image) for image in images])
        if self.model_type.startswith("qwen"):
            out["pixel_values"] = pixels.flatten().repeat(2).reshape(16 * len(images), 96)
            out["image_grid_thw"] = torch.tensor([[1, 4, 4]] * len(images))
            out["mm_token_type_ids"] = (ids == tiny.IMAGE).long()
        else:
            out["pixel_values"] = pixels.unsqueeze(0) if self.model_type == "smolvlm" else pixels
        return out

    def decode(self, ids, skip_special_tokens=False):
        return " ".join(str(int(i)) for i in ids if not (skip_special_tokens and i == END))

    @staticmethod
    def _pixels(image):
        values = torch.tensor(list(image.tobytes()), dtype=torch.float32)
        return values.reshape(16, 16, 3).permute(2, 0, 1) / 64 - 2


class NumeralChat:
    """Rows whose questions, reasonings and answers are numerals; turns simply follow one another."""

    headers = (tiny.HEADER,)

    def prompt(self, row, *, question=None):
        past = [word for turn in row.history for word in (turn.question, turn.answer)]
        return prompt(" ".join([*past, question or row.question, *([row.prefix] if row.prefix else [])]))

    def encode(self, row, *, answer=None, reasoning=None, question=None):
        words = (reasoning or row.reasoning or "").split() + (answer or row.answer).split()
        return Encoded(self.prompt(row, question=question), (*map(int, words), END))

    def split(self, ids):
        return None, " ".join(str(i) for i in ids if i != END)


def prompt(text, *images):
    return Prompt(text, tuple(int(word) for word in text.split()), images)


def host(model_type="llama", seed=0, dtype=torch.float32):
    return ModelHost(tiny.build(model_type, seed).to(dtype), Numerals(model_type))


def picture(path, seed):
    """A file with a random image of 16 x 16 pixels."""
    pixels = torch.randint(0, 256, (16 * 16 * 3,), generator=torch.Generator().manual_seed(seed))
    Image.frombytes("RGB", (16, 16), bytes(pixels.tolist())).save(path)
    return path


def prompts(model_type, folder, lengths=(9, 14, 7, 11, 14)):
    """Prompts of several lengths, of which a seeing model gets all but the second with an image."""
    found = []
    for number, length in enumerate(lengths):
        ids = torch.randint(3, 80, (length,), generator=torch.Generator().manual_seed(number)).tolist()
        images = ()
        if tiny.sees(model_type) and number != 1:
            ids[1 : 1 + tiny.IMAGE_TOKENS] = [tiny.IMAGE] * tiny.IMAGE_TOKENS
            images = (picture(folder / f"{model_type}{number}.png", number),)
        ids[-len(tiny.HEADER) :] = tiny.HEADER
        found.append(prompt(" ".join(map(str, ids)), *images))
    return found


def context(host_, folder, fit=(), calibrate=(), **keys):
    return FitContext(
        host=host_,
        chat=NumeralChat(),
        fit=tuple(fit),
        calibrate=tuple(calibrate),
        params=None,
        work=folder,
        progress=False,
        **keys,
    )
