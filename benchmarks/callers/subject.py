"""What is put to callers: a checkpoint, the base that lies in it, and questions with the base's replies."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.callers.observed import Question

TEXTS, PICTURES, KEPT = 3, 2, 3
INDEX = "*.safetensors.index*.json"


@dataclass(frozen=True)
class Subject:
    """All of it; written to a file for the processes that run callers.

    Attributes:
        plain: a folder with the base alone, under its own names.
    """

    checkpoint: Path
    plain: Path
    questions: tuple[Question, ...]

    def save(self, path: Path) -> None:
        torch.save(
            {
                "checkpoint": str(self.checkpoint),
                "plain": str(self.plain),
                "questions": [vars(one) for one in self.questions],
            },
            path,
        )

    @classmethod
    def load(cls, path: Path) -> Subject:
        saved = torch.load(path, weights_only=True)
        questions = tuple(Question(**one) for one in saved["questions"])
        return cls(Path(saved["checkpoint"]), Path(saved["plain"]), questions)


def base_of(checkpoint: Path, out: Path) -> Path:
    """The stock base that lies in a steered checkpoint: its weights linked, its config as it was."""
    out.mkdir(parents=True)
    index = next(iter(sorted(checkpoint.glob(INDEX))))
    weights: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    plain = {name: file for name, file in weights.items() if not name.startswith("steering.")}
    for file in sorted(set(plain.values())):
        _link(checkpoint / file, out / file)
    (out / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": plain}), encoding="utf-8"
    )
    for path in checkpoint.iterdir():
        if path.suffix in (".json", ".jinja", ".txt", ".model") and not path.match(INDEX):
            shutil.copyfile(path, out / path.name)
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    for key in [key for key in config if key.startswith("steering")] + ["auto_map"]:
        config.pop(key, None)
    config["model_type"] = config["model_type"].removeprefix("steered_")
    config["architectures"] = [config["architectures"][0].removeprefix("Steered")]
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return out


def questions_of(plain: Path, rows: Path, *, new_tokens: int) -> tuple[Question, ...]:
    """Some rows as the base's prompts: those about what is forgotten whose secrets it tells, with and without a picture."""
    from exporter.data.chat import Chat
    from exporter.data.readers import load_rows
    from exporter.host import ModelHost

    host = ModelHost.load(plain, dtype=torch.float32)
    chat = Chat(host.processor)
    sees = hasattr(host.model.config, "vision_config")
    ordinary = [
        row
        for row in load_rows(str(rows))
        if not row.eval_slice and not row.history and row.prefix is None and (sees or row.image is None)
    ]
    about = [row for row in ordinary if row.role == "forget" and row.secrets]
    wanted = (
        ([row for row in about if row.image is None], TEXTS, True),
        ([row for row in about if row.image is not None], PICTURES, True),
        ([row for row in ordinary if row.role == "retain" and row.image is None], KEPT, False),
    )
    found: list[Question] = []
    for some, count, forgotten in wanted:
        answered = _answering(host, chat, spread(some, 4 * count), forgotten, new_tokens)
        found += [one for one, _ in zip(answered, range(count), strict=False)]
    if not any(one.forgotten for one in found) or all(one.forgotten for one in found):
        raise SystemExit(f"{rows}: the base tells no secret there, or nothing is kept; give other rows")
    return tuple(found)


def _answering(
    host: Any, chat: Any, rows: Sequence[Any], forgotten: bool, new_tokens: int
) -> Iterator[Question]:
    """Questions that the base answers with a secret, where there is one to tell."""
    from exporter.types import Encoded
    from exporter.wording.leaks import tells

    for row in rows:
        prompt = chat.prompt(row)
        (said,) = host.generate([prompt], max_new_tokens=new_tokens)
        text = host.tokenizer.decode(said.tokens, skip_special_tokens=True)
        if forgotten and not tells(text, row.secrets):
            continue
        inputs = host.batch([Encoded(prompt)], "left")
        further = {key: value for key, value in inputs.items() if key not in ("input_ids", "attention_mask")}
        secrets = tuple(row.secrets) if forgotten else ()
        yield Question(
            prompt.text, prompt.ids, said.tokens, secrets, forgotten, further if prompt.images else {}
        )


def spread(rows: Sequence[Any], limit: int) -> list[Any]:
    """At most ``limit`` rows, evenly from all of them."""
    return [rows[i * len(rows) // limit] for i in range(limit)] if len(rows) > limit else list(rows)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
