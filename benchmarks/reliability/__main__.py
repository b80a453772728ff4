"""Kills ``compile``, ``export onnx`` and ``push`` at random moments, and looks at what is there.

Each command runs in a process of its own (a fork with everything imported, so that no kill is spent on imports) and gets signal 9
at a moment drawn evenly from the time that it takes when nobody disturbs it, and a little more. Then its destination is looked at: it must be absent
or unchanged, or whole to the last byte. Then the same command runs again, and must succeed or say that the work is done already.

    python -m benchmarks.reliability [--kills 50] [--seed 0] [--out benchmarks/results/reliability.json]

Exits with 1 where anything half was found, or the same command did not mend it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_server import TOKEN, HubServer

from benchmarks.reliability.killing import Ending, in_child

if TYPE_CHECKING:
    from benchmarks.reliability.trials import Trial

Maker = Callable[[int], "Trial"]
UNDISTURBED = 3
"""Runs that say how long a command takes."""
LONGER = 1.05
"""Times so long the kill may wait, so that the last moments are met too."""
COLUMNS = {
    "command": "command",
    "seconds": "takes",
    "kills": "kills",
    "at work": "met it at work",
    "unchanged": "left nothing, or what was there",
    "whole": "left all of it",
    "half": "left half",
    "succeeded": "the same command then succeeded",
    "said so": "or said it is done",
    "failed": "or failed",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("compile", "export", "push"))
    parser.add_argument(
        "--out", type=Path, help="JSON file to write; the rows of other commands in it are kept"
    )
    options = parser.parse_args()
    with HubServer({TOKEN: "user"}, multipart=1 << 14) as hub, tempfile.TemporaryDirectory() as home:
        # Before anything imports huggingface_hub, which reads them once.
        os.environ.update(HF_ENDPOINT=hub.endpoint, HF_TOKEN=TOKEN, HF_HUB_OFFLINE="0")
        os.environ.update(HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_PROGRESS_BARS="1", OMP_NUM_THREADS="1")
        makers = prepared(Path(home), hub)
        chance = random.Random(options.seed)
        rows = [
            measured(make, options.kills, chance)
            for name, make in makers.items()
            if options.only in (None, name)
        ]
    print(table(rows))
    if options.out:
        names = [row["command"] for row in rows]
        old = json.loads(options.out.read_text(encoding="utf-8"))["rows"] if options.out.is_file() else []
        found = {
            "rows": [row for row in old if row["command"] not in names] + rows,
            "seed": options.seed,
            "platform": f"{platform.system()} {platform.machine()}",
            "cpus": os.cpu_count(),
        }
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return int(any(row["half"] or row["failed"] for row in rows))


def prepared(home: Path, hub: HubServer) -> dict[str, Maker]:
    """A tiny base, its checkpoint, a release of it with ONNX graphs; and what makes a trial of each command."""
    import tiny_run

    from benchmarks.reliability import trials
    from exporter import registry
    from exporter.pipeline import Request, publish
    from exporter.recipe import Recipe

    base, steering, whole = (home / name for name in ("base", "steering", "whole"))
    recipe = Recipe.load(tiny_run.write_publishable(home))
    registry.METHODS["keyed"] = "tiny_run:Quick"  # a fit of seconds
    release = publish(recipe, home / "run", Request(dry_run=True), progress=False).release
    steering.mkdir()
    tiny_run.always_on().save(steering)
    for first in (
        trials.Compile(base, steering, whole / "checkpoint", {}),
        trials.Export(whole / "checkpoint", whole / "onnx"),
    ):
        if (ending := in_child(first.work)).code:
            raise SystemExit(f"{first.name}: {ending.said}")
        if isinstance(first, trials.Compile):
            first.wanted = wanted = trials.digests(first.out)
    return {
        "compile": lambda number: trials.Compile(base, steering, home / f"compile{number}" / "out", wanted),
        "export": lambda number: trials.Export(whole / "checkpoint", home / f"export{number}" / "out"),
        "push": lambda number: trials.Push(
            hub, release, home / f"push{number}", f"user/repo{number}", over=number % 2 == 1
        ),
    }


def measured(make: Maker, kills: int, chance: random.Random) -> dict[str, Any]:
    """One row of the table."""
    takes = statistics.median(undisturbed(make(-number)) for number in range(1, UNDISTURBED + 1))
    row: dict[str, Any] = {"seconds": takes, "kills": kills, "what failed": []}
    row |= dict.fromkeys(("at work", "unchanged", "whole", "half", "succeeded", "said so", "failed"), 0)
    for number in range(1, kills + 1):
        trial, after = make(number), chance.uniform(0, LONGER * takes)
        row["command"] = trial.name
        row["at work"] += in_child(trial.work, kill_after=after).killed
        state = trial.state()
        again = in_child(trial.work)
        mended = mending(trial, state, again)
        row[state] += 1
        row[mended] += 1
        if state == "half" or mended == "failed":
            row["what failed"].append([after, state, again.code, again.said, trial.leftovers()])
        trial.clear()
        print(f"{trial.name} {number}/{kills}: {after:.3f} s, {state}, {mended}", file=sys.stderr)
    return row


def mending(trial: Trial, state: str, again: Ending) -> str:
    """What the same command did after a kill that left ``state``."""
    if again.code == 0 and trial.state() == "whole" and not trial.leftovers():
        return "succeeded"
    explained = bool(trial.refusal) and all(one in str(again.said) for one in trial.refusal)
    return "said so" if state == "whole" and again.code == 2 and explained else "failed"


def undisturbed(trial: Trial) -> float:
    """Seconds that the command takes when nobody kills it."""
    ending = in_child(trial.work)
    if ending.code or trial.state() != "whole" or trial.leftovers():
        raise SystemExit(f"{trial.name} does not work: {ending.said} {trial.state()} {trial.leftovers()}")
    trial.clear()
    return ending.seconds


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown."""
    lines = [list(COLUMNS.values()), ["---"] * len(COLUMNS)]
    for row in rows:
        shown = {**row, "command": f"`{row['command']}`", "seconds": f"{row['seconds']:.3g} s"}
        lines.append([str(shown[key]) for key in COLUMNS])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    raise SystemExit(main())
