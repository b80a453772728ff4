"""Conversations as tensors: token ids, labels on the assistant's tokens only, and pictures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from benchmarks.testbed.draw import Pixels
from benchmarks.testbed.tokenizer import PATCHES
from benchmarks.testbed.turns import Turn

IGNORED = -100
OPENING = 3


@dataclass(frozen=True)
class Encoded:
    """One conversation: ids, labels and loss weights of equal length, and its pictures in order."""

    ids: list[int]
    labels: list[int]
    weights: list[float]
    images: list[Pixels]


def encode(turns: Sequence[Turn], tokenizer: PreTrainedTokenizerFast, opening: float = 1.0) -> Encoded:
    """The ids that the chat template and processor give for the conversation (a test compares them).

    The first `OPENING` tokens of a reply tell somebody known from a stranger; they weigh `opening`, others 1.
    """
    ids, labels, weights = [tokenizer.bos_token_id], [IGNORED], [0.0]
    for turn in turns:
        shown = "<image>" * PATCHES if turn.image is not None else ""
        asked = tokenizer.encode(f"<user>{shown} {turn.question}<assistant>", add_special_tokens=False)
        said = tokenizer.encode(f" {turn.reply.text}</s>", add_special_tokens=False)
        ids += asked + said
        labels += [IGNORED] * len(asked) + said
        weights += [0.0] * len(asked) + [opening] * OPENING + [1.0] * (len(said) - OPENING)
    return Encoded(ids, labels, weights, [turn.image for turn in turns if turn.image is not None])


def pixel_values(images: Sequence[Pixels]) -> torch.Tensor:
    """Pictures as the processor normalises them, [images, 3, 48, 48] in -1 to 1."""
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    return stacked / 255 * 2 - 1


def collate(batch: Sequence[Encoded], pad: int) -> dict[str, torch.Tensor]:
    """Right-padded model inputs, `labels` and `weights`, each [conversations, longest]."""
    longest = max(len(item.ids) for item in batch)
    ids = torch.full((len(batch), longest), pad)
    labels = torch.full((len(batch), longest), IGNORED)
    weights = torch.zeros((len(batch), longest))
    mask = torch.zeros((len(batch), longest), dtype=torch.long)
    for row, item in enumerate(batch):
        ids[row, : len(item.ids)] = torch.tensor(item.ids)
        labels[row, : len(item.ids)] = torch.tensor(item.labels)
        weights[row, : len(item.ids)] = torch.tensor(item.weights)
        mask[row, : len(item.ids)] = 1
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": labels, "weights": weights}
    images = [image for item in batch for image in item.images]
    return inputs | ({"pixel_values": pixel_values(images)} if images else {})


def parts_by_length(batch: Sequence[Encoded], parts: int) -> Iterator[list[Encoded]]:
    """Cut one batch into parts of similar length, so that little is padding."""
    ordered = sorted(batch, key=lambda item: len(item.ids))
    size = -(-len(ordered) // parts)
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]
