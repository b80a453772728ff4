"""Prompts as the tensors that a model reads.

The processor runs once per row, so each image lands where its own prompt expects it, and only then is padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from exporter.errors import DataError
from exporter.picture import open_rgb
from exporter.types import Encoded, Prompt

Side = Literal["left", "right"]


class PromptBatcher:
    """Pads prompts, with their images, to batches.

    Args:
        processor: the model's processor, or its tokenizer for a model that reads text only.
        pad_id: stands where the attention mask is 0.
    """

    def __init__(self, processor: Any, pad_id: int) -> None:
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.pad_id = pad_id

    def batch(self, sequences: Sequence[Encoded], side: Side) -> dict[str, Tensor]:
        """Pad sequences to one batch.

        Returns:
            ``input_ids`` and ``attention_mask`` int64 [B,T], further per-token keys of the processor [B,T] (0 on padding
            and on the response), and image keys with all rows' images along dimension 0 in row order.

        Raises:
            DataError: an image cannot be read, or the processor's ids differ from the prompt's.
        """
        width = max(len(sequence) for sequence in sequences)
        per_token: dict[str, Tensor] = {"input_ids": torch.full((len(sequences), width), self.pad_id)}
        images: dict[str, list[Tensor]] = {}
        for row, sequence in enumerate(sequences):
            start = width - len(sequence) if side == "left" else 0
            columns = slice(start, start + len(sequence.prompt.ids))
            for key, value in self._process(sequence.prompt).items():
                if key not in ("input_ids", "attention_mask") and value.shape != (
                    1,
                    len(sequence.prompt.ids),
                ):
                    images.setdefault(key, []).append(value)
                    continue
                if key not in per_token:
                    per_token[key] = torch.zeros(len(sequences), width, dtype=value.dtype)
                per_token[key][row, columns] = value[0]
            response = slice(columns.stop, columns.stop + len(sequence.response))
            per_token["input_ids"][row, response] = torch.tensor(sequence.response, dtype=torch.long)
            per_token["attention_mask"][row, response] = 1
        stacked = {key: _stack(values) for key, values in images.items()}
        return per_token | stacked

    def _process(self, prompt: Prompt) -> dict[str, Tensor]:
        """The processor's output for one prompt: per-token keys [1,T], image keys of any shape."""
        plain = {
            "input_ids": torch.tensor([prompt.ids]),
            "attention_mask": torch.ones(1, len(prompt.ids), dtype=torch.long),
        }
        if not prompt.images:
            return plain
        pictures = [open_rgb(path) for path in prompt.images]
        bos = self.tokenizer.bos_token
        options = {"add_special_tokens": False} if bos and prompt.text.startswith(bos) else {}
        out = dict(self.processor(text=[prompt.text], images=pictures, return_tensors="pt", **options))
        if out["input_ids"].tolist() != plain["input_ids"].tolist():
            raise DataError(
                f"the processor returns {out['input_ids'].shape[1]} ids for a prompt that was rendered as {len(prompt.ids)}: "
                f"{prompt.text[-80:]!r}; render prompts with this model's own processor"
            )
        return {key: value for key, value in out.items() if isinstance(value, Tensor)} | plain


def _stack(values: Sequence[Tensor]) -> Tensor:
    """Concatenate along dimension 0, with trailing dimensions padded by zeros to the largest."""
    shape = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    padded = []
    for value in values:
        missing = [
            size
            for have, want in zip(value.shape[:0:-1], shape[::-1], strict=True)
            for size in (0, want - have)
        ]
        padded.append(nn.functional.pad(value, missing) if any(missing) else value)
    return torch.cat(padded)
