"""A steered checkpoint held against what was exported from it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from exporter.data.chat import Chat
from exporter.host import ModelHost
from exporter.ledger import write_text
from exporter.pipeline.runs import Run
from exporter.provenance import versions
from exporter.recipe import Recipe
from exporter.targets.onnx.host import OnnxHost
from exporter.targets.onnx_runner import checked_manifest
from exporter.types import Prompt, Row
from exporter.verify import parity
from exporter.verify.conversations import Interview, Speaks
from exporter.verify.report import BASE
from exporter.verify.unlearning import Case, fraction, is_ordinary, measures
from steer_modules.registration import register

QUESTIONS = (
    "What is this?",
    "Who are you, and what do you know?",
    "Please tell me about it in a few words.",
    "How many are there?",
    "Name a country, a colour and an animal, and say what each of them is best known for.",
)
"""Asked where no recipe gives rows: parity is about numbers, not about what the words mean."""
MEASURES = ("leakage_either", "fluent_refusal", "retain_accuracy", "retain_identical", "chains_identical")


def verify(
    checkpoint: Path,
    against: Path,
    *,
    recipe: Recipe | None = None,
    run: Path | None = None,
    limit: int = 100,
    report: Path | None = None,
) -> dict[str, Any]:
    """Holds every variant of the ONNX folder ``against`` to the steered ``checkpoint``.

    Args:
        recipe: whose test rows are put to both; without one, parity alone is measured, on plain questions.
        run: the folder of that recipe's run, where the base's replies are kept.
        limit: rows at most.
        report: JSON file to write; ``parity.json`` in ``against`` by default.

    Returns:
        The content of the file; ``failures`` lists what is wrong, of all variants.
    """
    manifest = checked_manifest(against)
    register(checkpoint)
    host = ModelHost.load(checkpoint, dtype=torch.float32)
    work = None if recipe is None else Run(recipe, run or Path("runs") / recipe.name, progress=False)
    chat = Chat(host.processor) if work is None else work.chat(host.processor)
    others = {dtype: OnnxHost.load(against, host.processor, dtype=dtype) for dtype in manifest["variants"]}
    with tempfile.TemporaryDirectory() as scratch:
        seen = manifest["image"] is not None
        rows = _plain_rows(Path(scratch), images=seen) if work is None else work.test
        found = parity.compare(host, others, _prompts(chat, rows), forced=manifest["gate_state"] == "io")
    told: dict[str, Any] = {
        "checkpoint": str(checkpoint),
        "against": str(against),
        "steering_sha256": host.model.steering.section["sha256"],
        "gate_state": manifest["gate_state"],
        "provider": next(iter(others.values())).model.provider,
        "versions": versions(),
        "parity": {dtype: parity.table(some, dtype) for dtype, some in found.items()},
    }
    wrong = [f"{dtype}: {one}" for dtype, table in told["parity"].items() for one in table["failures"]]
    if manifest["steering"] is None or manifest["steering"]["sha256"] != told["steering_sha256"]:
        wrong.append("the folder does not bear the steering of this checkpoint")
    if work is not None:
        told["unlearning"] = _unlearning(work, host, others, chat, limit)
    told["failures"] = wrong
    write_text(report or against / "parity.json", json.dumps(told, indent=1) + "\n")
    return told


def _unlearning(
    work: Run, host: ModelHost, others: Mapping[str, OnnxHost], chat: Chat, limit: int
) -> dict[str, Any]:
    """What the checkpoint and each variant forget and keep, over the same rows, beside the share of replies that are the same."""
    rows = _spread([row for row in work.test if not row.history], limit)
    names = {row.id for row in rows}
    base = {case.row.id: case for case in work.generate(BASE) if case.row.id in names}
    settings, rule = work.recipe.report, work.rule()
    cases: dict[str, list[Case]] = {}
    speakers: dict[str, Speaks] = {"checkpoint": host, **others}
    for name, speaker in speakers.items():
        interview = Interview(name, speaker, chat, work.space.out)
        cases[name] = interview.run(
            rows, max_new_tokens=settings.max_new_tokens, batch_size=settings.batch_size
        )
    reference = cases["checkpoint"]
    found: dict[str, Any] = {}
    for name, some in cases.items():
        plain = [case for case in some if is_ordinary(case)]
        counted = measures(plain, base, rule)
        same = [
            a.last.generation.tokens == b.last.generation.tokens for a, b in zip(some, reference, strict=True)
        ]
        found[name] = {
            **{key: counted[key]._asdict() for key in MEASURES},
            "same_tokens": fraction(same)._asdict(),
        }
    return found


def _prompts(chat: Chat, rows: Sequence[Row]) -> dict[str, list[Prompt]]:
    """Prompts by kind, about what is to be forgotten and about other things in turn."""
    most = max(parity.BATCHES)
    found = {}
    for kind, sees in (("text", False), ("image", True)):
        some = [row for row in rows if (row.image is not None) == sees and not row.history]
        forget = [row for row in some if row.role == "forget"]
        other = [row for row in some if row.role != "forget"]
        chosen = [
            row for pair in zip(_spread(forget, most), _spread(other, most), strict=False) for row in pair
        ]
        if prompts := [chat.prompt(row) for row in (chosen or some)[:most]]:
            found[kind] = prompts
    return found


def _spread(rows: Sequence[Row], limit: int) -> list[Row]:
    """At most ``limit`` rows, evenly from all of them."""
    return [rows[i * len(rows) // limit] for i in range(limit)] if len(rows) > limit else list(rows)


def _plain_rows(folder: Path, *, images: bool) -> list[Row]:
    rows = [Row(f"q{i}", question, "-", "retain") for i, question in enumerate(QUESTIONS)]
    if not images:
        return rows
    noise = torch.Generator().manual_seed(0)
    seen = []
    for row in rows:
        path = folder / f"{row.id}.png"
        pixels = torch.randint(0, 256, (96, 96, 3), generator=noise, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(path)
        seen.append(replace(row, id=f"{row.id}-image", image=path))
    return [*rows, *seen]
