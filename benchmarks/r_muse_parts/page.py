"""docs/methods/r_muse_parts.md: what R-MUSE's parts carry, from what benchmarks.r_muse_parts has measured.

python -m benchmarks.r_muse_parts.page [benchmarks/results/r_muse_parts_*.json] [--out docs/methods/r_muse_parts.md]
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from benchmarks.r_muse_parts import search
from benchmarks.r_muse_parts.combination import Combination
from exporter.atomic import write_text

HOME = Path(__file__).resolve().parents[2]
RESULTS = HOME / "benchmarks" / "results"
COLUMNS = {
    "leakage": "leaks",
    "fluent": "fluent",
    "refuses": "refuses",
    "identical": "identical",
    "finished": "ends",
    "repeats": "repeats",
    "nats": "nats",
    "missed": "missed",
    "false_alarms": "false alarms",
}
NOTHING = "none of these combinations was measured"
HEAD = """# R-MUSE, part by part

Which of [R-MUSE's](r_muse.md) parts lets a model go on speaking, and which breaks the text. Written by `python -m benchmarks.r_muse_parts.page` from
`benchmarks/results/r_muse_parts_*.json`, which `python -m benchmarks.r_muse_parts [RECIPE]` measures on calibration rows; no test row is read.

- *leaks*, *fluent*: shares of forget replies that tell a secret, and that are a refusal word for word; *refuses*: whose answer is that of a
  refusal, whatever was thought before it. *identical*: kept replies that are the base's, token for token.
- How broken the text is: *ends*, forget replies that end by themselves; *repeats*, triples of tokens that the same reply had before; *nats*, nats
  a token of forget replies under the unsteered base.
- *missed*, *false alarms*: prompts on which the gate is wrong. A gate that reads every column may still fire in the reply.

The [parts](#the-parts) are named at the end. The format has no positions of prompt or reply alone: a gated edit applies from where its gate fires, one
without a gate everywhere. Nor has it a calibrated angle for a table: that of `nearest` is the whole way, and of `keyed` a fraction.
"""
TAIL = """
## The parts

- `gate`: `ratio-T`, the paper's subspace ratio below T; `prompt_end`, learned, at the prompt's end; `token`, the one of `keyed`, at every column; `none`.
- `prototypes`: what bounds a calibrated angle and what `nearest` and `keyed` turn to. `pooled`, means over whole forced refusals; `natural-pooled`, over natural
  ones; `positions`, natural refusals token by token; `resumed`, also refusals forced on forget questions, where the model goes on with them by itself; `single`, one for all keys.
- `target`: `svd`, the paper's first singular vector of centred differences with the state's sign; `shift`, of differences that keep their mean, from
  memory to refusal; `mean`, the plain mean difference; `nearest` prototype; `keyed`; `add`, the mean difference added `angle` times.
- `positives`: refusals `forced` on forget questions, or `natural`. `pooling`: `means` over spans, or their `openings`, the states that they begin from. `spans`:
  those that directions and tables are made from.
- `protect`, `energy`: how the retain subspace (RRS) is spared, and the energy that it holds. `angle`: `calibrated`, or a fraction of the way, shared by `depth` layers.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, default=sorted(RESULTS.glob("r_muse_parts_*.json")))
    parser.add_argument("--out", type=Path, default=HOME / "docs" / "methods" / "r_muse_parts.md")
    asked = parser.parse_args()
    write_text(asked.out, page([json.loads(file.read_text(encoding="utf-8")) for file in asked.files]))


def page(results: Sequence[Mapping[str, Any]]) -> str:
    """The page in Markdown."""
    return (
        HEAD
        + "".join(_section(found) for found in sorted(results, key=lambda one: -len(one["combinations"])))
        + TAIL
    )


def _section(found: Mapping[str, Any]) -> str:
    rows = {Combination.of(key): figures for key, figures in found["combinations"].items()}
    layers = sorted({one.layer for one in rows})
    count = found["rows"]
    text = f"\n## {found['recipe']}\n\n{count['forget']} forget and {count['keep']} kept rows, {found['layers']} blocks.\n"
    best = Combination.of(found["around"])
    name = "the best" if found.get("best") == found["around"] else "the given one"
    text += f"\n### From the paper to {name}\n\nOne step a line, all before it kept, to `{best.key}`.\n\n"
    first, *steps = search.steps(best)
    lines = [("the base", found["base"]), (f"the paper's, layer {best.layer}", rows.get(first))]
    shown = [first, *(one for one in steps if one in rows)]
    lines += [(_change(before, one), rows[one]) for before, one in itertools.pairwise(shown)]
    text += _table("step", lines)
    text += f"\n### {name[0].upper()}{name[1:]} with one part changed\n\n"
    around: list[Combination] = []
    search.around(best, layers, around.append, search.NAMES)
    text += _table("change", [(_change(best, one), rows.get(one)) for one in dict.fromkeys(around)])
    whole = [one for one in search.ideas(best, layers) if one in rows]
    if whole:
        text += "\n### All three ideas kept\n\nBoth spans, the retain subspace, the calibrated angle; of each layer and protection, the energy that costs least.\n\n"
        text += _table("layer, protection, energy", _cheapest_of(whole, rows, ("layer", "protect"), "energy"))
    text += "\n### `keyed` with one part changed\n\n"
    own, *others = search.keyed(max(layers), layers)
    text += _table(
        "change", [("`keyed`", rows.get(own)), *((_change(own, one), rows.get(one)) for one in others)]
    )
    added = [one for one in rows if one.target == "add"]
    if added:
        text += "\n### The mean difference added\n\nOf each layer and direction, the number of times that costs least.\n\n"
        kind = ("layer", "positives", "pooling", "spans")
        text += _table("layer, direction, times", _cheapest_of(added, rows, kind, "angle"))
    return text


def _cheapest_of(
    given: Iterable[Combination], rows: Mapping[Combination, Any], kind: Sequence[str], over: str
) -> list[tuple[str, Any]]:
    """Of the combinations of each kind the one that costs least, with its figures."""
    best: dict[tuple[Any, ...], Combination] = {}
    for one in given:
        key = tuple(getattr(one, part) for part in kind)
        if "failed" not in rows[one] and (
            key not in best or search.cost(rows[one]) < search.cost(rows[best[key]])
        ):
            best[key] = one
    return [(", ".join(map(str, (*key, getattr(one, over)))), rows[one]) for key, one in sorted(best.items())]


def _change(before: Combination, after: Combination) -> str:
    """What of a combination differs from another one."""
    changed = [one.name for one in fields(after) if getattr(after, one.name) != getattr(before, one.name)]
    return ", ".join(f"{name} `{getattr(after, name)}`" for name in changed) or "as it is"


def _table(head: str, lines: Sequence[tuple[str, Mapping[str, Any] | None]]) -> str:
    """Lines that were measured; a dash where a figure is not."""
    shown = [(name, figures) for name, figures in lines if figures is not None and "failed" not in figures]
    if not shown:
        return f"{NOTHING}.\n"
    text = f"| {head} | {' | '.join(COLUMNS.values())} |\n|---|{'---|' * len(COLUMNS)}\n"
    return text + "".join(
        f"| {name} | {' | '.join(_cell(figures.get(key)) for key in COLUMNS)} |\n" for name, figures in shown
    )


def _cell(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, (int, float)) else "-"


if __name__ == "__main__":
    main()
