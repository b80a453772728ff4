"""docs/comparison.md: every method in one table, from what benchmarks.method_table has measured.

    python -m benchmarks.method_table.page [benchmarks/results/methods*.json] [--out docs/comparison.md]

Files of one share of the testbed and several seeds are one table, with the mean over the seeds. What was not measured is a dash.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.testbed.world import GROUP, KNOWN
from exporter.atomic import write_text

HOME = Path(__file__).resolve().parents[2]
RESULTS = HOME / "benchmarks" / "results"
COLUMNS = {
    "leak": "leaks",
    "worst": "worst attack",
    "sampled": "20 samples",
    "relearned": "relearned",
    "int4": "4 bits",
    "fluent": "fluent refusal",
    "retain": "retain identical",
    "ril": "RIL",
    "rcr": "RCR",
    "model_utility": "utility",
}
HEAD = """# Comparison

Every method on the same rows, fitted by one command each at its default parameters; what a method searches, it searches on calibration rows. None was chosen by test rows.
Written by `python -m benchmarks.method_table.page` from `benchmarks/results/methods*.json`, which `make bench-methods` measures. A dash was not measured. Shares are of held-out test
rows, greedy replies; *worst attack* is the leak under the [way of asking](attacks.md#the-worst-attack-and-a-bound-on-it) under which most may leak. CPU seconds are of fit, compile and
report together, on shared cores; bytes are what is shipped beside the base.

On the testbed `r_muse_calibrated` without its retain subspace and on the reasoning span alone reaches the default, `keyed`, on plain questions, for fewer bytes. `keyed` stays the default: its gate reads
every column, where that of `r_muse_calibrated` reads the end of each prompt and leaks in later turns ([figures](results.md)), and on SmolLM2 no direction refuses a question
([R-MUSE, part by part](methods/r_muse_parts.md)). The steering as an adapter (target `lora`) is measured [apart](lora.md#measured).
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, default=sorted(RESULTS.glob("methods*.json")))
    parser.add_argument("--out", type=Path, default=HOME / "docs" / "comparison.md")
    asked = parser.parse_args()
    write_text(asked.out, page(asked.files))


def page(files: Sequence[Path]) -> str:
    """The page in Markdown."""
    tables: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for file in files:
        tables[re.sub(r"-seed\d+$", "", file.stem)].append(json.loads(file.read_text(encoding="utf-8")))
    return HEAD + "".join(
        f"\n## {_title(name)}\n\n{_seeds(name, found)}{_table(found)}"
        for name, found in sorted(tables.items())
    )


def _title(name: str) -> str:
    people = re.fullmatch(r"methods-(\d+)-people", name)
    if people:
        return f"Testbed, {people[1]} of {KNOWN} people forgotten"
    return f"Testbed, {GROUP} of {KNOWN} people forgotten: the bundled rows" if name == "methods" else name


def _seeds(name: str, runs: Sequence[Mapping[str, Any]]) -> str:
    """Over how many draws of questions and pictures the figures are a mean; nothing of the bundled rows, which are one."""
    if name == "methods":
        return ""
    return f"Mean of {len(runs)} seeds.\n\n" if len(runs) > 1 else "One seed.\n\n"


def _table(runs: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for run in runs for name in run))
    shown = [key for key in COLUMNS if any(key in one for run in runs for one in run.values())]
    lines = [
        f"| method | {' | '.join(COLUMNS[key] for key in shown)} | CPU seconds | bytes |",
        f"|---|{'---|' * (len(shown) + 2)}",
    ]
    failed = []
    for name in names:
        found = [run[name] for run in runs if name in run and "failed" not in run[name]]
        if not found:
            failed.append(
                f"- `{name}` found nothing: {next(run[name]['failed'] for run in runs if name in run)}"
            )
            continue
        cells = [_share([one.get(key) for one in found]) for key in shown]
        seconds, size = (fmean(one[key] for one in found) for key in ("seconds", "bytes"))
        lines.append(f"| `{name}` | {' | '.join(cells)} | {seconds:,.0f} | {size:,.0f} |")
    return "\n".join([one for one in lines if one] + (["", *failed] if failed else [])) + "\n"


def _share(figures: Sequence[Any]) -> str:
    """A mean over seeds; a dash where any seed has no figure."""
    values = [one["value"] for one in figures if isinstance(one, Mapping) and one.get("n")]
    return f"{fmean(values):.3f}" if values and len(values) == len(figures) else "-"


if __name__ == "__main__":
    main()
