"""What a finished run asked its checkpoint, and a choice of it, as arrays that any runtime takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np

from exporter.reader import open_reader
from exporter.report import Report
from exporter.targets.onnx_runner import OnnxModel, pixels

BASE = "base"
ROLES = ("forget", "retain", "reasoning", "unknown")


@dataclass(frozen=True)
class Line:
    """One line of generations.jsonl: a rendered prompt, and what the checkpoint said to it.

    Attributes:
        images: files, in the order of the prompt.
        tokens: up to and including the end token, where one was said.
        base_tokens: what the unsteered base said.
    """

    id: str
    role: str
    prompt: str
    images: tuple[Path, ...]
    tokens: tuple[int, ...]
    base_tokens: tuple[int, ...]


def lines_of(run: Path, report: Report) -> list[Line]:
    """The checkpoint's lines of a finished run, without those of the turns within a conversation."""
    text = (run / "generations.jsonl").read_text(encoding="utf-8")
    records = [json.loads(line) for line in filter(None, text.split("\n"))]
    base = {line["id"]: line["tokens"] for line in records if line["model"] == BASE}
    lines = []
    for line in records:
        if line["model"] == report.default and "#" not in line["id"]:
            named = line.get("image") or []
            images = tuple(run / path for path in ([named] if isinstance(named, str) else named))
            tokens, unsteered = tuple(line["tokens"]), tuple(base[line["id"]])
            lines.append(Line(line["id"], line["role"], line["prompt"], images, tokens, unsteered))
    return lines


def chosen(lines: Sequence[Line], count: int) -> list[Line]:
    """``count`` lines, as many of every role and number of images as there are, from all over the file."""
    kinds: dict[tuple[int, int], list[Line]] = {}
    for line in lines:
        kinds.setdefault((ROLES.index(line.role), len(line.images)), []).append(line)
    taken = dict.fromkeys(sorted(kinds), 0)
    for kind in cycle(taken):
        if sum(taken.values()) == min(count, len(lines)):
            break
        taken[kind] += taken[kind] < len(kinds[kind])
    return [
        kinds[kind][index * len(kinds[kind]) // number]
        for kind, number in taken.items()
        for index in range(number)
    ]


def write_prompts(folder: Path, lines: Sequence[Line], max_new_tokens: int, out: Path) -> None:
    """Writes ``out`` and, beside it, an .npy file for the images of each prompt that has some.

    Args:
        folder: exported ONNX graphs, whose tokenizer and manifest are used.
    """
    model = OnnxModel(folder, provider="cpu")
    image = model.manifest["image"]
    prompts = []
    for index, line in enumerate(lines):
        ids, array = model.encode(line.prompt), None
        if line.images:
            ids, array = model.expand_images(ids), f"pixels-{index}.npy"
            np.save(out.parent / array, pixels(line.images, image)["pixel_values"])
        tokens = [image["tokens"]] * len(line.images) if line.images else []
        prompts.append({"id": line.id, "ids": ids, "images": array, "image_tokens": tokens})
    _write(prompts, max_new_tokens, out)


def write_text_prompts(checkpoint: Path, lines: Sequence[Line], max_new_tokens: int, out: Path) -> None:
    """Writes ``out`` of prompts without images, as the tokenizer of a checkpoint cuts them."""
    tokenizer = open_reader(checkpoint).backend_tokenizer
    ids = [tokenizer.encode(line.prompt, add_special_tokens=False).ids for line in lines]
    _write([{"id": line.id, "ids": one} for line, one in zip(lines, ids, strict=True)], max_new_tokens, out)


def _write(prompts: Sequence[object], max_new_tokens: int, out: Path) -> None:
    out.write_text(json.dumps({"max_new_tokens": max_new_tokens, "prompts": prompts}), encoding="utf-8")
