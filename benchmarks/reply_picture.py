"""A picture of what base and steered checkpoint reply to the same questions, side by side, out of a run's own replies.

    python -m benchmarks.reply_picture RUN ROWS ID... --out docs/pictures/replies.svg

RUN is a folder that `steerbake run` wrote; ROWS the file of its test rows, for the questions; ID the rows that are shown. The picture in
README is of `export_configs/llama/smollm2_forget_paris.yaml`:

    python -m benchmarks.reply_picture runs/smollm2-forget-paris export_configs/llama/smollm2_forget_paris/test.jsonl \
        test-forget-02 test-forget-15 test-twin-08 --out docs/pictures/replies.svg
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from exporter.data.rows import read_rows
from exporter.report import Report

WIDTH, MARGIN, GAP, LINE = 960, 24, 20, 22
COLUMN = (WIDTH - 2 * MARGIN - GAP) // 2
LETTERS = 48
"""Letters in a line of a reply."""
FONT = "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"
INK, FAINT, FORGET, RETAIN = "#1b1f24", "#57606a", "#b42318", "#1a7f37"


class Shown(NamedTuple):
    """One question with both replies."""

    question: str
    forgets: bool
    base: str
    steered: str


def shown(run: Path, rows: Path, ids: Sequence[str]) -> list[Shown]:
    """What RUN's base and default method replied to the rows of these ids, in this order.

    Raises:
        SystemExit: a row has no reply of both models in RUN/generations.jsonl, or is not in the file of rows.
    """
    method = Report.load(run).default
    texts: dict[tuple[str, str], str] = {}
    for line in (run / "generations.jsonl").read_text(encoding="utf-8").splitlines():
        one = json.loads(line)
        texts[one["model"], one["id"]] = one["text"]
    asked = {row.id: row for row in read_rows(rows)}
    for row in ids:
        missing = [m for m in ("base", method) if (m, row) not in texts] + [rows] * (row not in asked)
        if missing:
            raise SystemExit(
                f"every row needs a question and two replies; {row} is not in {missing[0]}: name other rows"
            )
    return [
        Shown(asked[i].question, asked[i].role == "forget", texts["base", i], texts[method, i]) for i in ids
    ]


def picture(title: str, rows: Sequence[Shown]) -> str:
    """The SVG: a heading, and for each row its question above two boxes."""
    parts, top = [_text(title, MARGIN, 40, size=20, weight=700)], 64
    for side, name in enumerate(("base", "steered checkpoint")):
        parts.append(_text(name, MARGIN + side * (COLUMN + GAP), top + 12, colour=FAINT, weight=700))
    top += 46
    for row in rows:
        role, colour = ("forget set", FORGET) if row.forgets else ("retain set", RETAIN)
        parts.append(_text(f"{role}: {row.question}", MARGIN, top, colour=colour, weight=600))
        replies = [textwrap.wrap(reply, LETTERS) or [""] for reply in (row.base, row.steered)]
        height = LINE * max(map(len, replies)) + 20
        for side, lines in enumerate(replies):
            parts += _box(lines, MARGIN + side * (COLUMN + GAP), top + 12, height)
        top += height + 48
    frame = {"width": WIDTH - 2, "height": top - 20, "rx": 10, "fill": "#ffffff", "stroke": "#d0d7de"}
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top - 18}" font-family="{FONT}" role="img">',
            f"<title>{escape(title)}</title>",
            _tag("rect", {"x": 1, "y": 1, **frame}),
            *parts,
            "</svg>\n",
        ]
    )


def _box(lines: Sequence[str], left: int, top: int, height: int) -> list[str]:
    shape = {"x": left, "y": top, "width": COLUMN, "height": height, "rx": 8, "fill": "#f6f8fa"}
    return [
        _tag("rect", {**shape, "stroke": "#d0d7de"}),
        *(_text(line, left + 14, top + 26 + LINE * number) for number, line in enumerate(lines)),
    ]


def _text(text: str, left: int, top: int, *, size: int = 16, weight: int = 400, colour: str = INK) -> str:
    where = {"x": left, "y": top, "font-size": size, "font-weight": weight, "fill": colour}
    return _tag("text", where, escape(text))


def _tag(name: str, attributes: Mapping[str, object], inside: str = "") -> str:
    pairs = " ".join(f'{key}="{value}"' for key, value in attributes.items())
    return f"<{name} {pairs}>{inside}</{name}>"


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("ids", nargs="+")
    parser.add_argument("--title", default="SmolLM2-135M-Instruct, steered to forget Paris")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.write_text(picture(given.title, shown(given.run, given.rows, given.ids)), encoding="utf-8")


if __name__ == "__main__":
    main()
