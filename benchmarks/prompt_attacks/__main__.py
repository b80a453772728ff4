"""`python -m benchmarks.prompt_attacks RECIPE_OR_DEMO CHECKPOINT --out FILE.json`: every attack, base beside steered."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.prompt_attacks import beginnings, frames, pictures, turns, words
from benchmarks.prompt_attacks.attempt import Attack, Attempt, Setting
from benchmarks.prompt_attacks.measure import Completion, Trial, results, say, trials
from benchmarks.prompt_attacks.whole_pass import summary, whole_pass
from exporter.fitting.bags import forgotten_subjects
from exporter.fitting.selection import plain, spread
from exporter.pipeline.run import DEMO_RECIPE, Run
from exporter.recipe import Recipe
from exporter.types import Row

GROUPS = {
    "beginnings": beginnings.ATTACKS,
    "words": words.ATTACKS,
    "turns": turns.ATTACKS,
    "pictures": pictures.ATTACKS,
    "frames": frames.ATTACKS,
    "each_frame": frames.EACH,
}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", help="a recipe, or demo")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--forget", type=int, default=48, help="questions about the forgotten per attack")
    parser.add_argument("--kept", type=int, default=96, help="kept questions per attack")
    parser.add_argument("--groups", nargs="*", choices=[*GROUPS, "test"], default=[*GROUPS, "test"])
    options = parser.parse_args()
    recipe = Recipe.load(DEMO_RECIPE if options.recipe == "demo" else Path(options.recipe))
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Run(recipe, Path(folder) / "run", progress=False), options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    for name, line in found["attacks"].items():
        print(f"{name[:46]:46} leak {line['leaks']}/{line['base_leaks']} of {line['asked']}", end="")
        print(f"   identical {line['identical']} of {line['kept']}, clear {line['identical_clear']}")
    print(found["whole_pass"])


def measured(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    """Everything, as it is written to the file."""
    rows = run.test
    chat = run.chat(run.host.processor)
    setting = Setting.of(chat, rows, _refusal(run.rows.fit))
    forget = spread([row for row in plain(rows) if row.role == "forget"], options.forget)
    kept = spread(setting.kept, options.kept)
    asked: list[Trial] = []
    for group in options.groups:
        attacks: Sequence[Attack] = GROUPS.get(group, ())
        some = (4, 12) if group == "each_frame" else (len(forget), len(kept))
        asked += trials(attacks, spread(forget, some[0]), spread(kept, some[1]), setting)
    if "test" in options.groups:
        asked += _own_groups(rows)
    settings = run.recipe.report
    said: dict[str, list[Completion]] = {}
    passes: dict[str, list[dict[str, float]]] = {}
    for name in ("base", "steered"):
        host = run.host if name == "base" else run.load(options.checkpoint, trust_remote_code=True)
        torch.set_num_threads(1)
        said[name] = say(
            name, host, chat, asked, max_new_tokens=settings.max_new_tokens, batch_size=settings.batch_size
        )
        passes[name] = whole_pass(host, chat, [row for row in forget if row.reasoning or row.image is None])
    found = results(asked, said["base"], said["steered"], forgotten_subjects(rows))
    return {
        "recipe": run.recipe.name,
        "attacks": found,
        "whole_pass": summary(passes["base"], passes["steered"]),
    }


def _own_groups(rows: Sequence[Row]) -> list[Trial]:
    """The groups of the test rows, and every kept row as it stands."""
    touched = [row for row in rows if row.eval_slice and (row.role == "forget" or row.secrets)]
    found = [Trial(f"test rows: {row.eval_slice}", Attempt(row), about=True) for row in touched]
    found += [
        Trial("test rows: plain", Attempt(row), about=True) for row in plain(rows) if row.role == "forget"
    ]
    kept = [row for row in plain(rows) if row.role in ("retain", "reasoning")]
    return found + [Trial("test rows: plain", Attempt(row), about=False) for row in kept]


def _refusal(rows: Sequence[Row]) -> tuple[str | None, str]:
    """The model's most frequent refusal among rows."""
    said = Counter((row.reasoning, row.answer) for row in rows if row.role == "unknown")
    return said.most_common(1)[0][0] if said else (None, "I do not know.")


if __name__ == "__main__":
    main()
