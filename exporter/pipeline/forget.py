"""From a model and one file of rows to a recipe, its rows and a run of it: nothing else has to be written.

The given rows are split, and others are generated from them (:mod:`exporter.topics`): the topic and other things in the same
words, everyday requests, unknown subjects, and for the test prefaces, system prompts, typos and later turns. The base answers them.
All rows are written to files, so ``steerbake run`` of the recipe gives the same result.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import yaml

from exporter.atomic import write_text
from exporter.data.chat import Chat
from exporter.data.rows import read_rows, write_rows
from exporter.errors import FitError, InputErrors
from exporter.evaluation.attacks.base import Attack, in_slice
from exporter.evaluation.attacks.turns import LaterTurn
from exporter.evaluation.attacks.wording import Preface, SystemPrompt, Typos
from exporter.fitting.context import FitContext
from exporter.fitting.refusals import natural_refusals, wordings
from exporter.host import ModelHost
from exporter.ledger import Ledger
from exporter.methods.keyed import KeyedParams
from exporter.pipeline.attacked_rows import FITTED_WITH
from exporter.pipeline.continuations import Continuations
from exporter.pipeline.run import run
from exporter.provenance import digest_of_base, digest_of_code, fetched
from exporter.recipe import BaseModelSource, Data, Recipe
from exporter.settings import template_of
from exporter.splits import digest_of_rows, set_aside
from exporter.steerable import why_unsteerable
from exporter.topics.made import made_rows, unknown_rows
from exporter.topics.namesakes import namesakes
from exporter.topics.reverse import reverse_rows
from exporter.topics.secrets import with_secrets
from exporter.topics.subjects import neighbour_names, topic_names
from exporter.topics.words import CALIBRATE, FIT, REFUSALS, TEST, Words
from exporter.types import Row
from exporter.wording.leaks import tells

LOG = logging.getLogger(__name__)
ENOUGH = 60
"""Rows to forget from which on a part of them is set aside for the test; fewer are held out in turn."""
FOLDS = 4
NAMESAKES = 12
"""Other things whose names begin as the topic's, for fit and calibration together."""
ANSWER, REPLY = 20, 40
"""New tokens of an answer to a made row, and of replies in the report."""


@dataclass(frozen=True)
class Forgotten:
    """What ``steerbake forget`` made: the recipe, the folder of its run, what the topic is called, and report.json."""

    recipe: Path
    out: Path
    names: tuple[str, ...]
    report: dict[str, object]


def forget(
    model: str, rows: Path, out: Path | None = None, *, about: Sequence[str] = (), progress: bool = True
) -> Forgotten:
    """Make a model forget the topic of a file of rows.

    Args:
        model: a folder, or a name on the Hub.
        rows: a file with rows of roles forget and retain.
        out: the folder to write; ``forget-MODEL-ROWS`` by default.
        about: what the topic is called, where the rows do not show it.

    Raises:
        InputErrors: rows of one of the two roles are missing, or too few; or it cannot be told what the secrets of some are.
    """
    brought = with_secrets(_checked(rows, read_rows(rows)), str(rows))
    local = Path(model).expanduser()
    name = _name(local.name, rows.stem)
    folder = (out or Path("runs") / name).resolve()
    names = tuple(about) or tuple(topic_names(brought))
    source: dict[str, object] = {"path": str(local.resolve())} if local.is_dir() else {"repo": model}
    draft = Recipe(
        name=name,
        base=BaseModelSource(**source),
        data=Data(fit=[{"path": "."}], test=[{"path": "."}]),
    )
    base = fetched(draft)
    if reason := why_unsteerable(json.loads((base / "config.json").read_text(encoding="utf-8"))):
        raise InputErrors(model, [reason])
    inputs = {
        "base": digest_of_base(base),
        "rows": digest_of_rows(brought),
        "names": names,
        "code": digest_of_code("exporter/topics", *FITTED_WITH, "exporter/pipeline/forget.py"),
    }
    ledger = Ledger(folder / ".made")
    recipe = folder / "recipe.yaml"
    ledger.run("rows", inputs, folder / "rows", lambda: _make(base, brought, names, folder / "rows"))
    settings = yaml.safe_load((folder / "rows" / "settings.yaml").read_text(encoding="utf-8"))
    _write_recipe(recipe, name, source, settings, brought)
    report = run(Recipe.load(recipe), folder / "run", progress=progress)
    return Forgotten(recipe, folder / "run", names, report)


def _checked(source: Path, rows: Sequence[Row]) -> list[Row]:
    counts = {role: sum(row.role == role for row in rows) for role in ("forget", "retain")}
    problems = []
    if counts["forget"] < 4:
        problems.append(
            f"contains {counts['forget']} rows of role forget; give 4 or more, in wordings as different as possible"
        )
    if counts["retain"] < 4:
        problems.append(
            f"contains {counts['retain']} rows of role retain; give 4 or more, preferably close to the topic"
        )
    if problems:
        raise InputErrors(str(source), problems)
    return list(rows)


def _name(model: str, rows: str) -> str:
    text = "".join(letter if letter.isalnum() else "-" for letter in f"forget-{model}-{rows}".lower())
    return "-".join(filter(None, text.split("-")))


def _make(base: Path, brought: Sequence[Row], names: Sequence[str], folder: Path) -> None:
    """Write the rows of all parts, and what was settled on the way, into ``folder``."""
    host = ModelHost.load(base, dtype=_dtype())
    template = template_of(brought)
    chat = Chat(host.processor, reasoning_template=template)
    answered = _Answers(host, chat)
    LOG.info("making rows")
    secrets = {secret for row in brought if row.role == "forget" for secret in row.secrets} | set(names)
    shown, aside, held = _parted(brought)
    going_on = Continuations(host)
    alike = namesakes(names, going_on.pieces, going_on, NAMESAKES)
    near = [neighbour_names(rows, names) + alike[part::2] for part, rows in enumerate((shown, aside))]
    fit = answered(made_rows(names, FIT, "fit", near=near[0]), secrets)
    calibrate = answered(made_rows(names, CALIBRATE, "calibrate", near=near[1]), secrets)
    fit += _reversed(fit, FIT, 12)
    calibrate += _reversed(calibrate, CALIBRATE, 6)
    test = _told(answered(made_rows(names, TEST, "test"), secrets))
    described = [replace(row, eval_slice="described") for row in _reversed(test, TEST, 4)]
    test += _told(answered(described, secrets))
    refusal = _refusal(host, chat, folder.parent / ".made" / "states")
    fit += unknown_rows(FIT, "fit", refusal)
    calibrate += unknown_rows(CALIBRATE, "calibrate", refusal)
    about = [row for row in test if row.role == "forget" and row.eval_slice is None]
    kept = [row for row in test if row.role == "retain" and row.eval_slice is None]
    neighbours = [row for row in brought if row.role == "retain"]
    test += _attacked([*about[:5], *kept[:5]], neighbours, chat)
    folder.mkdir(parents=True)
    for part, rows in {
        "fit": [*shown, *fit],
        "calibrate": [*aside, *calibrate],
        "test": [*held, *test],
    }.items():
        write_rows(folder / f"{part}.jsonl", rows)
    settings = {"dtype": _dtype(), "template": template, "folds": 0 if held else FOLDS}
    write_text(folder / "settings.yaml", yaml.safe_dump(settings))


def _attacked(rows: Sequence[Row], neighbours: Sequence[Row], chat: Chat) -> list[Row]:
    """Test rows as people put them, in slices: behind a preface, mistyped, behind a neighbour's turn, under a system prompt."""
    turn = [LaterTurn(tuple(neighbours))] if neighbours else []
    attacks: list[Attack] = [Preface(), Typos(), *turn, SystemPrompt()]
    made = [in_slice(attack, rows, chat) for attack in attacks]
    return [row for together in zip(*filter(None, made), strict=True) for row in together]


class _Answers:
    """Adds the base's own answers to rows, and to forget rows the secrets in these answers."""

    def __init__(self, host: ModelHost, chat: Chat) -> None:
        self.host, self.chat = host, chat

    def __call__(self, rows: Sequence[Row], secrets: set[str]) -> list[Row]:
        said = self.host.generate([self.chat.prompt(row) for row in rows], max_new_tokens=ANSWER)
        texts = [
            self.host.tokenizer.decode(list(one.tokens), skip_special_tokens=True).strip() for one in said
        ]
        answered = [replace(row, answer=text or "...") for row, text in zip(rows, texts, strict=True)]
        return [
            replace(row, secrets=_secrets(row, secrets)) if row.role == "forget" else row for row in answered
        ]


def _secrets(row: Row, secrets: set[str]) -> tuple[str, ...]:
    """The topic's secrets and names that occur in a row's answer and not in its question."""
    return tuple(
        one for one in sorted(secrets) if tells(row.answer, [one]) and not tells(row.question, [one])
    )


def _told(rows: Sequence[Row]) -> list[Row]:
    """Test rows without the forget rows for which the base leaks nothing: they would count as forgotten."""
    return [row for row in rows if row.role != "forget" or row.secrets]


def _reversed(rows: Sequence[Row], words: Words, most: int) -> list[Row]:
    """Descriptions of the topic, and twice as many of other things."""
    about, kept = ([row for row in rows if row.role == role] for role in ("forget", "retain"))
    return [*reverse_rows(about, words.reverse, most), *reverse_rows(kept, words.reverse, 2 * most)]


def _refusal(host: ModelHost, chat: Chat, work: Path) -> str:
    """The first bundled refusal that the model generates by itself.

    Raises:
        FitError: it generates none of them.
    """
    last = [host.num_layers - 1]
    for refusal in REFUSALS:
        rows = tuple(unknown_rows(FIT, "fit", refusal)[:8])
        context = FitContext(host, chat, rows, (), KeyedParams(), work, progress=False)
        try:
            natural_refusals(context, wordings(context), last, source="unknown", rows=8)
        except FitError:
            continue
        return refusal
    raise FitError(
        "the model generates none of the bundled refusals by itself; write a recipe with rows of role unknown in its own words "
        "(docs/methods.md), and run that recipe"
    )


def _parted(brought: Sequence[Row]) -> tuple[list[Row], list[Row], list[Row]]:
    """Rows that fit, that calibrate, and that are only tested on; of few rows to forget none are set aside for the last."""
    rows, held = list(brought), list[Row]()
    if sum(row.role == "forget" for row in rows) >= ENOUGH:
        rows, held = set_aside(rows, 0.3, 0)
    return (*set_aside(rows, 0.3, 1), held)


def _dtype() -> str:
    """bfloat16 where a GPU or the processor multiplies it several times faster than float32, which is used otherwise."""
    return "bfloat16" if torch.cuda.is_available() or "avx512_bf16" in _processor() else "float32"


def _processor() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""


def _write_recipe(
    path: Path, name: str, source: dict[str, object], settings: dict[str, object], brought: Sequence[Row]
) -> None:
    tree = {
        "name": name,
        "base": {**source, "dtype": settings["dtype"]},
        "data": {part: [f"rows/{part}.jsonl"] for part in ("fit", "calibrate", "test")},
        "chat": {"reasoning_template": settings["template"]},
        "methods": {
            "default": "keyed",
            "compare": [],
            "params": {
                "keyed": {
                    "subject": {
                        "rows": 120,
                        "forget": 96,
                        "keep": 240,
                        "unknown": 8,
                        "replies": 0,
                        "steps": 400,
                        "starts": 1,
                    },
                    "prefill_tokens": 4,
                    "pairs": 12,
                    "key_rows": 24,
                    "refusal_rows": 16,
                }
            },
        },
        "report": {"max_new_tokens": REPLY, "folds": settings["folds"], "eval_slices": SLICES},
    }
    head = f"# Written by steerbake forget; `steerbake run {path.name}` repeats it. Rows: {len(brought)} given, the others generated.\n"
    write_text(path, head + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


SLICES = {
    "described": "questions that describe and do not name, where the base finds the name",
    "preface": "questions behind two sentences about something else",
    "typos": "questions in lower case with two letters exchanged",
    "later_turn": "questions asked after another one was answered",
    "system_prompt": "questions under a system prompt of somebody's own",
}
"""What the slices of made test rows are, in the report's words."""
