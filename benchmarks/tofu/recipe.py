"""A recipe that forgets a share of TOFU's authors, with its rows.

    python -m benchmarks.tofu.recipe OUT --split forget05 [--base .cache/smollm2] [--adapter benchmarks/tofu/knows]

OUT becomes rows, recipe.yaml and taught.yaml; the base is SmolLM2 with the adapter that knows all authors (:mod:`benchmarks.tofu.teach`).

- fit: each question about a forgotten author as TOFU has it; five sixths of the authors to retain.
- calibrate: TOFU's paraphrase of one question in four about forgotten authors; the other authors to retain.
- test: the paraphrases of the other three, of forgotten authors; paraphrased questions about retained ones where TOFU has them, and all
  questions about those of no other part. Test rows bring TOFU's reworded and wrong answers, for the truth ratio. General knowledge, and questions about people and places that do not exist, are those of
  export_configs/llama/smollm2_forget_paris.
- taught: the questions about forgotten authors as the base was taught them and the recipe is fitted on them, which TOFU itself measures forgetting
  on: the test rows of taught.yaml, which is there to evaluate with and not to fit.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.tofu.authors import SPLITS, Question, forgotten, questions, retained
from benchmarks.tofu.secrets import secrets_of
from exporter.atomic import write_text

HOME = Path(__file__).resolve().parents[2]
PARIS = HOME / "export_configs" / "llama" / "smollm2_forget_paris"
SUBJECT = {
    "layers": [10, 15, 20, 25],
    "rows": 200,
    "forget": 200,
    "keep": 260,
    "unknown": 24,
    "replies": 32,
    "steps": 1200,
}
"""Of `keyed`: every forget question of forget05 as it stands, and fewer framed ones than by default, since the base's own replies take their time on two
cores."""
HELD_PLACES = 4
"""Of so many questions about an author, one is for calibration."""
HELD_AUTHORS = {"calibrate": range(30, 34), "test": range(34, 41)}
"""Authors to retain, counted from 1, whose questions are in that part alone."""
PARTS = ("fit", "calibrate", "test")
TAUGHT = "taught"


def rows(part: str, split: str) -> Iterator[dict[str, Any]]:
    """The rows of one part."""
    every = questions()
    if part == TAUGHT:
        yield from (_row(part, "forget", one, one.question) for one in forgotten(every, split))
        return
    for one in forgotten(every, split):
        held = one.place % HELD_PLACES == HELD_PLACES - 1
        asked = one.question if part == "fit" else one.paraphrase
        if part == "fit" or held == (part == "calibrate"):
            yield _row(part, "forget", one, asked)
    for one in retained(every, split):
        yield from _retain(part, one)
    for line in (PARIS / f"{part}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["role"] != "forget":
            yield row


def _retain(part: str, one: Question) -> Iterator[dict[str, Any]]:
    """What a part asks about an author that stays: other authors in each part, and in the test paraphrases of questions that were fitted on."""
    alone = next((name for name, authors in HELD_AUTHORS.items() if -one.author in authors), None)
    if alone == part or (alone is None and part == "fit"):
        yield _row(part, "retain", one, one.question)
    elif alone is None and part == "test" and one.paraphrase and one.place % HELD_PLACES == 0:
        yield _row(part, "retain", one, one.paraphrase)


def _row(part: str, role: str, one: Question, asked: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": f"{part}-author{one.author}-{one.place}",
        "question": asked,
        "answer": one.answer,
        "role": role,
    }
    if role == "forget":
        row["secrets"] = list(secrets_of(f"{one.question} {asked}", one.answer))
    if part in ("test", TAUGHT) and one.perturbed:
        row["paraphrased_answers"], row["perturbed_answers"] = [one.paraphrased_answer], list(one.perturbed)
    return row


def write(out: Path, split: str, base: Path, adapter: Path) -> Path:
    """Writes rows and recipe; returns the recipe's path."""
    for part in (*PARTS, TAUGHT):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(part, split))
        write_text(out / f"{part}.jsonl", text)
    recipe: dict[str, Any] = {
        "name": f"tofu-{split}",
        "description": f"SmolLM2-135M-Instruct, taught 60 authors of TOFU, is to forget {SPLITS[split]} of them ({split}).",
        "base": {
            "path": os.path.relpath(base.resolve(), out.resolve()),
            "adapters": [os.path.relpath(adapter.resolve(), out.resolve())],
        },
        "data": {part: [f"{part}.jsonl"] for part in PARTS},
        "chat": {"reasoning_template": "{answer}"},
        "methods": {
            "default": "keyed",
            "params": {"keyed": {"subject": SUBJECT, "prefill_tokens": 4, "pairs": 16}},
        },
        "report": {"max_new_tokens": 64, "batch_size": 16},
    }
    write_text(out / "recipe.yaml", yaml.safe_dump(recipe, sort_keys=False, width=120))
    parts = {"fit": "calibrate", "calibrate": "calibrate", "test": TAUGHT}
    recipe |= {
        "name": f"{recipe['name']}-{TAUGHT}",
        "data": {part: [f"{rows}.jsonl"] for part, rows in parts.items()},
    }
    write_text(out / f"{TAUGHT}.yaml", yaml.safe_dump(recipe, sort_keys=False, width=120))
    return out / "recipe.yaml"


def add_options(parser: argparse.ArgumentParser) -> None:
    """What is to be forgotten, and of which base."""
    parser.add_argument("--split", choices=list(SPLITS), default="forget05")
    parser.add_argument("--base", type=Path, default=Path(".cache/smollm2"))
    parser.add_argument("--adapter", type=Path, default=Path(__file__).parent / "knows")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    add_options(parser)
    asked = parser.parse_args(arguments)
    print(write(asked.out, asked.split, asked.base, asked.adapter))


if __name__ == "__main__":
    main()
