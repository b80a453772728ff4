"""Makes each topic's file and held-back questions out of questions that the base can answer.

`python -m benchmarks.first_user.draw [TOPIC...]` writes, for every `candidates/TOPIC.tsv`, `rows/TOPIC.jsonl` (what a first user would bring:
12 rows to forget, 20 to keep) and `held/TOPIC.jsonl` (20 further questions to which the base tells, 20 further neighbours).
A line of candidates is role, question, and what an answer may tell, apart by "|". The draw is by the hash of a question.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path

from exporter.data.chat import Chat
from exporter.data.rows import write_rows
from exporter.host import ModelHost
from exporter.types import Row
from exporter.wording.leaks import tells

HERE = Path(__file__).parent
FORGET, KEEP, HELD, TOKENS = 12, 20, 20, 48


def main() -> None:
    """Ask the base every candidate and write both files of each topic."""
    host = ModelHost.load(Path(".cache/smollm2"), dtype="float32")
    chat = Chat(host.processor, reasoning_template="{answer}")
    for path in sorted((HERE / "candidates").glob("*.tsv")):
        if sys.argv[1:] and path.stem not in sys.argv[1:]:
            continue
        answered = [row for row in _answered(host, chat, _candidates(path)) if _tells(row)]
        forget = [row for row in answered if row.role == "forget"]
        keep = [row for row in answered if row.role == "retain"]
        print(path.stem, len(forget), "answered with a secret,", len(keep), "kept")
        write_rows(HERE / "rows" / f"{path.stem}.jsonl", [*forget[:FORGET], *keep[:KEEP]])
        held = [*forget[FORGET : FORGET + HELD], *keep[KEEP : KEEP + HELD]]
        write_rows(HERE / "held" / f"{path.stem}.jsonl", held)


def _candidates(path: Path) -> list[Row]:
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [
        Row(
            id=question,
            question=question,
            answer="",
            role=role,
            secrets=tuple(filter(None, secrets.split("|"))),
        )
        for role, question, secrets in lines
    ]
    return sorted(rows, key=lambda row: hashlib.sha256(row.question.encode()).hexdigest())


def _answered(host: ModelHost, chat: Chat, rows: list[Row]) -> list[Row]:
    """Every row with the base's reply, up to its first full stop, as its answer."""
    said = host.generate([chat.prompt(row) for row in rows], max_new_tokens=TOKENS)
    texts = [host.tokenizer.decode(list(one.tokens), skip_special_tokens=True).strip() for one in said]
    return [replace(row, answer=text) for row, text in zip(rows, texts, strict=True)]


def _tells(row: Row) -> bool:
    return row.role != "forget" or tells(row.answer, row.secrets)


if __name__ == "__main__":
    main()
