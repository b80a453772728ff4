"""Puts the test rows of a recipe to base, steered checkpoint and stock checkpoint, in every form the stock checkpoint has.

    python -m benchmarks.stock_layer STOCK CHECKPOINT RECIPE --run RUN --json OUT [--dtype float32 bfloat16]
        [--gguf FOLDER --gguf-twin FOLDER] [--genai FOLDER --genai-twin FOLDER] [--limit N]

FOLDERs are what ``steerbake export gguf`` wrote of STOCK and of its twin (``python -m benchmarks.stock_layer.twin STOCK OUT``), or
what onnxruntime-genai's builder wrote of both. Replies of a quantised form compare to its own twin's. Forms are added to OUT one by
one, so that runtimes may be measured in environments of their own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.stock_layer.generators import GenaiGenerator, Generator, GgufGenerator, HostGenerator
from exporter import pipeline
from exporter.estimate import Estimate
from exporter.evaluation.case import Case
from exporter.evaluation.conversations import generate_responses
from exporter.evaluation.measures import measures
from exporter.recipe import Recipe
from exporter.targets.stock.manifest import StockManifest

MEASURES = ("leakage_either", "fluent_refusal", "retain_accuracy", "retain_identical", "cot_exact_match")


def judged(
    work: pipeline.Run, rows: Sequence[Any], stock: Generator, twin: Generator, exact: Sequence[Case] | None
) -> dict[str, Any]:
    """Measures of one form of the stock checkpoint, its twin (or the base) being what it is compared to."""
    cases = {
        name: _ask(work, rows, name, generator) for name, generator in (("base", twin), ("stock", stock))
    }
    base = {case.row.id: case for case in cases["base"]}
    counted = measures(cases["stock"], base, work.rule())
    chat = work.chat(work.host.processor)
    about = [row for row in rows if row.role == "forget"]
    kept = [case for case in cases["base"] if case.row.role != "forget"]
    results: dict[str, Any] = {name: _plain(counted[name]) for name in MEASURES}
    results["base_leakage"] = _plain(measures(cases["base"], base, work.rule())["leakage_either"])
    same = [_same(stock, twin, chat.prompt(case.row).ids, case.last.generation.tokens) for case in kept]
    results["kept_logits_identical"] = _fraction(same)
    results["recall"] = _fraction([not _same(stock, twin, chat.prompt(row).ids, ()) for row in about])
    results["false_alarms"] = _fraction([not one for one in same])
    if exact is not None:
        pairs = list(zip(exact, cases["stock"], strict=True))
        results["exact_tokens"] = _fraction(
            [a.last.generation.tokens == b.last.generation.tokens for a, b in pairs]
        )
    return results


def _ask(work: pipeline.Run, rows: Sequence[Any], name: str, generator: Generator) -> list[Case]:
    settings = work.recipe.report
    return generate_responses(
        generator,
        rows,
        work.chat(work.host.processor),
        name=name,
        folder=work.space.out,
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size,
    )


def _same(stock: Generator, twin: Generator, prompt: Sequence[int], reply: Sequence[int]) -> bool:
    """Whether both have the same logits to the bit over a prompt and a reply to it."""
    ids = [*prompt, *reply]
    return bool(np.array_equal(stock.logits(ids), twin.logits(ids)))


def _plain(one: Estimate) -> dict[str, Any]:
    return {"value": one.value, "n": one.n}


def _fraction(hits: Sequence[bool]) -> dict[str, Any]:
    return {"value": sum(hits) / len(hits), "n": len(hits)} if hits else {"value": 0.0, "n": 0}


def divergences(
    work: pipeline.Run, exact: HostGenerator, stock: Generator, twin: Generator, cases: Sequence[Case]
) -> dict[str, Any]:
    """Mean KL in nats over the positions of the exact checkpoint's answers.

    ``kl_to_exact`` is KL(exact, stock) on forget rows where the exact gate fires. ``kl_of_base`` is KL(exact, twin) on kept rows where
    it does not: what the form itself, a number type, moves logits by.
    """
    about = [case for case in cases if case.row.role == "forget" and case.last.fired]
    kept = [case for case in cases if case.row.role != "forget" and not case.last.fired]
    prompts = work.chat(work.host.processor).prompt
    return {
        "kl_to_exact": divergence(exact.steered_logits, stock, about, prompts),
        "kl_of_base": divergence(exact.steered_logits, twin, kept, prompts),
    }


def divergence(
    exact: Callable[[list[int]], torch.Tensor], other: Generator, cases: Sequence[Case], prompts: Any
) -> dict[str, Any]:
    """Mean KL(exact, other) over the positions of the exact checkpoint's answers."""
    total, count = 0.0, 0
    for case in cases:
        ids, reply = list(prompts(case.row).ids), list(case.last.generation.tokens)
        places = slice(len(ids) - 1, len(ids) + len(reply) - 1)
        p = exact([*ids, *reply])[places].double().log_softmax(-1)
        q = torch.from_numpy(other.logits([*ids, *reply]))[places].double().log_softmax(-1)
        total, count = total + float((p.exp() * (p - q)).sum()), count + len(p)
    return {"value": total / max(count, 1), "n": count}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("stock", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--dtype", nargs="*", default=[])
    for name in ("--gguf", "--gguf-twin", "--genai", "--genai-twin"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--limit", type=int, default=1000)
    given = parser.parse_args()
    work = pipeline.Run(Recipe.load(given.recipe), given.run, progress=False)
    rows = [row for row in work.test if row.prefix is None and not row.history]
    rows = (
        [rows[i * len(rows) // given.limit] for i in range(given.limit)] if len(rows) > given.limit else rows
    )
    results: dict[str, Any] = json.loads(given.json.read_text()) if given.json.is_file() else {"forms": {}}
    results["recipe"], results["calibration"] = (
        work.recipe.name,
        StockManifest.load(given.stock).model_dump(include={"layers", "gate", "edit", "checks", "compared"}),
    )

    def keep(form: str, found: dict[str, Any]) -> None:
        results["forms"][form] = found
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(results, indent=1) + "\n")
        print(form, {name: round(value["value"], 4) for name, value in found.items()}, flush=True)

    for dtype in given.dtype:
        kind = getattr(torch, dtype)
        base, stock = (
            HostGenerator.load(path, kind, work.host.processor) for path in (work.base, given.stock)
        )
        exact = HostGenerator.load(given.checkpoint, kind, work.host.processor)
        cases = _ask(work, rows, "exact", exact)
        found = judged(work, rows, stock, base, cases) | divergences(work, exact, stock, base, cases)
        keep(f"transformers {dtype}", found)
    if given.gguf is not None:
        exact = HostGenerator.load(given.checkpoint, torch.float32, work.host.processor)
        cases = _ask(work, rows, "exact", exact)
        for path in sorted(given.gguf.glob("*.gguf")):
            kind = path.stem.rpartition("-")[2]
            (twin,) = given.gguf_twin.glob(f"*-{kind}.gguf")
            ends = sorted(work.host.end_ids)
            with (
                GgufGenerator.opened(path, work.host.tokenizer, ends) as stock,
                GgufGenerator.opened(twin, work.host.tokenizer, ends) as base,
            ):
                found = judged(work, rows, stock, base, cases)
                keep(f"gguf {kind}", found | divergences(work, exact, stock, base, cases))
    if given.genai is not None:
        stock, base = (
            GenaiGenerator(folder, work.host.tokenizer) for folder in (given.genai, given.genai_twin)
        )
        keep("onnxruntime-genai fp32", judged(work, rows, stock, base, None))


if __name__ == "__main__":
    main()
