"""What a stock checkpoint says in the turns after one that fired, on test rows, beside the exact checkpoint and the base.

    python -m benchmarks.stock_layer.after STOCK CHECKPOINT RECIPE --run RUN --json OUT [--pairs N]

Every model answers its own earlier turns; the exact one is handed each conversation whole, so it judges the last prompt end alone.
A later reply is held against the base's to the very same conversation. Three sets: a forgotten question and then one that is kept;
two kept ones, as a control; and a forgotten one, a kept one and a forgotten one again. Of the first set and the last those count in
which the first turn was refused. A stock checkpoint stands in OUT under the name of what it does: its flag is sticky.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.stock_layer.generators import HostGenerator
from exporter import pipeline
from exporter.evaluation.case import Case
from exporter.evaluation.conversations import generate_responses
from exporter.recipe import Recipe
from exporter.types import Row, Turn
from exporter.wording.leaks import tells


def conversations(rows: Sequence[Row], pairs: int) -> dict[str, list[Row]]:
    """Rows whose earlier turns wait for the model's own answers."""
    forget = [row for row in rows if row.role == "forget"]
    kept = [row for row in rows if row.role in ("retain", "reasoning")]
    sets: dict[str, list[Row]] = {"after": [], "control": [], "again": []}
    for number in range(pairs):
        first, other = forget[number % len(forget)], kept[(number * 7 + 3) % len(kept)]
        last = kept[number * len(kept) // pairs]
        sets["after"].append(_asked(number, first, last))
        sets["control"].append(_asked(number, other, last))
        sets["again"].append(_asked(number, first, last, forget[(number + 1) % len(forget)]))
    return sets


def _asked(number: int, *turns: Row) -> Row:
    history = tuple(Turn(row.question, None, image=row.image) for row in turns[:-1])
    return replace(
        turns[-1], id=f"{number}:{'+'.join(row.id for row in turns)}", history=history, template_id=None
    )


def judged(
    work: pipeline.Run, sets: dict[str, list[Row]], generator: HostGenerator, base: HostGenerator
) -> dict[str, Any]:
    """Shares of the last replies of each set."""
    rule, results = work.rule(), dict[str, Any]()
    for name, rows in sets.items():
        cases = _ask(work, rows, generator)
        if name != "control":
            results[f"{name}_first_refused"] = _fraction([rule.accepts(_text(case, 0)) for case in cases])
            cases = [case for case in cases if rule.accepts(_text(case, 0))]
        results[f"{name}_refused"] = _fraction([rule.accepts(_text(case, -1)) for case in cases])
        if name == "again":
            results["again_leaked"] = _fraction([_leaks(case) for case in cases])
            continue
        same = _ask(work, [_spoken(case) for case in cases], base)
        pairs = list(zip(cases, same, strict=True))
        results[f"{name}_as_base"] = _fraction(
            [a.last.generation.tokens == b.last.generation.tokens for a, b in pairs]
        )
        results[f"{name}_base_refused"] = _fraction([rule.accepts(_text(case, -1)) for case in same])
    return results


def _spoken(case: Case) -> Row:
    """The row with its earlier turns as the model answered them."""
    turns = [
        replace(turn, answer=reply.generation.text)
        for turn, reply in zip(case.row.history, case.replies, strict=False)
    ]
    return replace(case.row, history=tuple(turns))


def _text(case: Case, number: int) -> str:
    return case.replies[number].generation.text


def _leaks(case: Case) -> bool:
    return tells(_text(case, -1), case.row.secrets)


def _ask(work: pipeline.Run, rows: Sequence[Row], generator: HostGenerator) -> list[Case]:
    settings = work.recipe.report
    return generate_responses(
        generator,
        rows,
        work.chat(work.host.processor),
        name="model",
        folder=work.space.out,
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size,
    )


def _fraction(hits: Sequence[bool]) -> dict[str, Any]:
    return {"value": sum(hits) / len(hits) if hits else 0.0, "n": len(hits)}


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("stock", "checkpoint", "recipe"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=48)
    given = parser.parse_args()
    work = pipeline.Run(Recipe.load(given.recipe), given.run, progress=False)
    rows = [row for row in work.test if row.prefix is None and not row.history]
    sets = conversations(rows, given.pairs)
    results: dict[str, Any] = json.loads(given.json.read_text()) if given.json.is_file() else {}
    results["recipe"] = work.recipe.name
    base = HostGenerator.load(work.base, torch.float32, work.host.processor)
    wanted = {"sticky": given.stock}
    if "exact" not in results:
        wanted["exact"] = given.checkpoint
    for name, folder in wanted.items():
        generator = HostGenerator.load(folder, torch.float32, work.host.processor)
        results[name] = judged(work, sets, generator, base)
        print(
            name,
            {key: (round(value["value"], 4), value["n"]) for key, value in results[name].items()},
            flush=True,
        )
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
