"""`python -m benchmarks.first_user OUT [TOPIC...]`: each topic's dozen rows through `steerbake forget`, then its held-back questions.

Writes OUT/TOPIC/ (the run), and benchmarks/results/first_user.json: CPU seconds of the command (its own process, all threads), leaks of the
base and of the checkpoint on 20 questions that no row asks, 20 neighbours answered as the base answers them, and what the run's own
report says. The command makes questions of its own, among them some of the plainest ("Tell me about ..."): how many of the 20 it had
made too, and how many of the others leak, is said apart. The checkpoint is asked in float32, as Transformers loads these files.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.first_user.draw import HERE
from exporter.data.chat import Chat
from exporter.data.rows import read_rows
from exporter.host import ModelHost
from exporter.report import Report
from exporter.types import Row
from exporter.wording.leaks import tells

MODEL, TOKENS = Path(".cache/smollm2"), 48
RESULTS = HERE.parent / "results" / "first_user.json"


def main() -> None:
    """Run the topics that are named, all by default, and write what came of them."""
    out, *topics = sys.argv[1:]
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    for topic in topics or sorted(path.stem for path in (HERE / "rows").glob("*.jsonl")):
        found[topic] = measured(topic, Path(out) / topic)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(topic, json.dumps(found[topic]))


def measured(topic: str, folder: Path) -> dict[str, Any]:
    """One topic from its file to what held-back questions show."""
    command = ["steerbake", "forget", str(MODEL), str(HERE / "rows" / f"{topic}.jsonl"), "--out", str(folder)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "exporter.cli", *command[1:]], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = Report.load(folder / "run")
    held = read_rows(HERE / "held" / f"{topic}.jsonl")
    base, steered = replies(MODEL, held), replies(folder / "run" / "checkpoint", held, trust=True)
    forget = [i for i, row in enumerate(held) if row.role == "forget"]
    kept = [i for i, row in enumerate(held) if row.role == "retain"]
    leaking = [held[i].question for i in forget if tells(steered[i], held[i].secrets)]
    made = {row.question for row in read_rows(folder / "rows" / "fit.jsonl")}
    assert report.cross_validated is not None, "a recipe of forget has folds"
    own = report.cross_validated.leakage_either
    return {
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime),
        "held_back": len(forget),
        "base_leaks": sum(tells(base[i], held[i].secrets) for i in forget),
        "leaks": len(leaking),
        "leaked": leaking,
        "made_too": sum(held[i].question in made for i in forget),
        "leaked_of_the_others": sum(question not in made for question in leaking),
        "neighbours": len(kept),
        "neighbours_identical": sum(base[i] == steered[i] for i in kept),
        "own_report": own.data(),
        "interval_covers": own.low <= len(leaking) / len(forget) <= own.high,
        "test_rows": report.models["keyed"].metrics["leakage_either"].data(),
    }


def replies(folder: Path, rows: list[Row], *, trust: bool = False) -> list[str]:
    """Greedy replies in float32."""
    host = ModelHost.load(folder, dtype="float32", trust_remote_code=trust)
    chat = Chat(host.processor, reasoning_template="{answer}")
    said = host.generate([chat.prompt(row) for row in rows], max_new_tokens=TOKENS)
    return [host.tokenizer.decode(list(one.tokens), skip_special_tokens=True) for one in said]


if __name__ == "__main__":
    main()
