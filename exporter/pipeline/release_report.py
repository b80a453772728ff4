"""What describes a release beside its card: the pictures of the run, and the page for people, without anything of the forget rows."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from exporter.errors import InputErrors
from exporter.evaluation.case import Case, Reply, is_ordinary
from exporter.evaluation.pictures import Scores, Tables, draw
from exporter.evaluation.refusals import RefusalRule
from exporter.evaluation.report import BASE
from exporter.picture import open_rgb
from exporter.pipeline.run import Run
from exporter.publish import file_descriptions
from exporter.publish.card import PAGE, base_told, requires
from exporter.publish.coverage import Coverage
from exporter.publish.files import targets_in
from exporter.publish.histogram import GateView, Series
from exporter.publish.measures import Results
from exporter.publish.metadata import licensed
from exporter.publish.origin import Origin
from exporter.publish.page import Completion, Example, Exchange, Page, Refusal, write_page
from exporter.publish.recipes import shown_recipe
from exporter.publish.usage_snippets import Place, usage_snippet
from exporter.types import Row
from exporter.verify.secrecy import Secrecy
from exporter.wording.words import normalise

KINDS: dict[str, tuple[Any, Any, str, int]] = {
    "forget": ("Forget set", "forgotten", "Questions about the forget set", 4),
    "retain": ("Retain rows", "kept", "Questions of the retain rows", 4),
    "reasoning": ("Reasoning", "kept", "Questions of the reasoning rows", 2),
    "unknown": ("Unknown subject", "other", "Questions about subjects that nobody knows", 2),
}
"""By role: kind of an example, tone of a strip, what the rows are, and how many conversations are shown."""
REFUSALS = 5
"""Wordings of a refusal that are shown at most."""
PIXELS = 160
"""Of a picture's longer side."""


def describe(work: Run, release: Path, origin: Origin, verification: Mapping[str, object] | None) -> Path:
    """Draws the pictures and writes the page of a release; returns the page's path.

    Args:
        work: the run that the release was made by.
        origin: what it was made from.
        verification: the content of verification.json; None where nothing was verified.

    Raises:
        InputErrors: text of the recipe that would be published reveals a forget row, without publish.show_forgotten.
    """
    secrecy = secrecy_of(work, whole=origin.shows_forgotten)
    eval_slices = {row.eval_slice for row in work.test if row.eval_slice is not None}
    refuse_telling(secrecy, origin.publication, origin.recipe, origin.recipe_name, eval_slices)
    method = work.recipe.methods.default
    records = work.space.records(method)
    fitted: Tables = json.loads(records.read_text(encoding="utf-8")) if records.is_file() else {}
    draw(release, {method: origin.section}, {method: work.scores(method)}, {method: fitted})
    return write_page(release / PAGE, page_of(work, secrecy, origin, verification, release))


def secrecy_of(work: Run, *, whole: bool) -> Secrecy | None:
    """What must not be revealed; None if the publisher shows the ``whole`` forget set."""
    if whole:
        return None
    template = work.recipe.chat.reasoning_template
    return Secrecy.of([*work.rows.fit, *work.rows.calibrate, *work.test], template)


def refuse_telling(
    secrecy: Secrecy | None,
    publication: Mapping[str, object],
    recipe: Mapping[str, object],
    name: str,
    eval_slices: Iterable[str] = (),
) -> None:
    """Raises InputErrors where the publisher's own words, or the settings that are shown, hold a text of a forget row.

    Args:
        name: the recipe's.
        eval_slices: names of slices of rows, which results are shown under.
    """
    if secrecy is None:
        return
    words: dict[str, object] = {
        f"publish.{key}": publication.get(key) for key in ("forgotten", "repo", "license_name")
    }
    words["the name of a slice of rows"] = [one.replace("_", " ") for one in eval_slices]
    telling = secrecy.told_in(
        {**words, "stand_in": recipe.get("stand_in"), **shown_recipe(recipe, whole=False)}
    )
    if telling:
        raise InputErrors(
            f"what is published of {name}",
            [
                f"{place}: contains a secret, an answer or a question of a forget row; reword it, or set publish.show_forgotten"
                for place in telling
            ],
        )


def page_of(
    work: Run,
    secrecy: Secrecy | None,
    origin: Origin,
    verification: Mapping[str, Any] | None,
    release: Path,
) -> Page:
    """The page of a release."""
    verified, base = verification or {}, origin.base
    method = work.recipe.methods.default
    ours = work.generate(method)
    name = base.repo or base.architecture or "A model"
    unlearning = verified.get("unlearning")
    forget = [case for case in ours if case.row.role == "forget" and is_ordinary(case)]
    return Page(
        title=str(origin.publication.get("repo") or name),
        forgotten=normalise(origin.forgotten),
        base=name,
        section=origin.section,
        method=origin.method,
        results=None if unlearning is None else Results.of(unlearning),
        gates=tuple(_gates(origin.section, work.scores(method))),
        examples=tuple(_examples(work.generate(BASE), ours, secrecy, work.space.out)),
        refusals=tuple(_refusals(forget, work.rule(), secrecy)),
        refused=len(forget),
        checks=tuple(verified.get("checks") or ()),
        files=tuple(file_descriptions.lines(release, verified.get("files") or {})),
        versions=origin.versions,
        created=verified.get("created"),
        stand_in=origin.stand_in,
        shows_forgotten=secrecy is None,
        told=base_told(base),
        requires=requires(edits_weights="edit" in origin.section),
        licence=licensed(origin.publication, base.data(), has_file=(release / "LICENSE").is_file())[1],
        ways=tuple(usage_snippet(release, target, Place(None, None, base)) for target in targets_in(release)),
        coverage=tuple(Coverage.of(unlearning).lines()),
    )


def _gates(section: Mapping[str, Any], scores: Scores) -> Iterator[GateView]:
    """Every gate with a score for each held-out prompt."""
    held_out = scores.get("test") or {}
    for gate in section["gates"]:
        by_role = held_out.get(gate["name"]) or {}
        series = [
            Series(words, tone, tuple(by_role[role]))
            for role, (_, tone, words, _) in KINDS.items()
            if by_role.get(role)
        ]
        if series:
            yield GateView.of(gate, series)


def _examples(
    base: Sequence[Case], ours: Sequence[Case], secrecy: Secrecy | None, out: Path
) -> Iterator[Example]:
    """Some conversations of every kind, spread over those that may be shown; one at least in which the replies differ, if any do."""
    steered = {case.row.id: case for case in ours}
    for role, (kind, _, _, most) in KINDS.items():
        if role == "forget" and secrecy is not None:
            continue
        pairs = [
            (case, steered[case.row.id]) for case in base if case.row.role == role and _is_plain(case.row)
        ]
        shown = [pair for pair in pairs if secrecy is None or not _tells(secrecy, *pair)]
        differing = [pair for pair in shown if not _same(*pair)]
        chosen = [shown[place * len(shown) // most] for place in range(most)] if len(shown) > most else shown
        if differing and all(_same(*pair) for pair in chosen):
            chosen = [*chosen[:-1], differing[0]]
        for before, after in chosen:
            yield Example(kind, (_exchange(before, after, out),))


def _is_plain(row: Row) -> bool:
    return row.prefix is None and not row.history and row.eval_slice is None


def _tells(secrecy: Secrecy, before: Case, after: Case) -> bool:
    """Whether a conversation about other things might reveal the forget set."""
    row = before.row
    texts = (row.question, before.last.generation.text, after.last.generation.text)
    return any(map(secrecy.hints, texts)) or (row.image is not None and secrecy.shows(row.image))


def _same(before: Case, after: Case) -> bool:
    return before.last.generation.tokens == after.last.generation.tokens


def _exchange(before: Case, after: Case, out: Path) -> Exchange:
    row = before.row
    return Exchange(
        question=row.question,
        picture=None if row.image is None else _inline(out / row.image),
        base=_completion(before.last),
        steered=_completion(after.last),
        same=_same(before, after),
        fired=after.last.fired,
    )


def _completion(reply: Reply) -> Completion:
    return Completion(reply.reasoning, (reply.answer or "").strip())


def _inline(path: Path) -> str:
    """A small copy of a picture as a ``data:`` URL, without metadata."""
    small = open_rgb(path)
    small.thumbnail((PIXELS, PIXELS))
    bare = Image.new("RGB", small.size)
    bare.paste(small)
    buffer = io.BytesIO()
    bare.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _refusals(forget: Sequence[Case], rule: RefusalRule, secrecy: Secrecy | None) -> list[Refusal]:
    """The wordings in which it refuses, the most frequent first, without those that might reveal the forget set."""
    texts = Counter(
        normalise(case.last.answer_part or case.last.generation.text)
        for case in forget
        if rule.accepts(case.last.generation.text)
    )
    shown = (
        (text, count) for text, count in texts.most_common() if secrecy is None or not secrecy.hints(text)
    )
    return [Refusal(text, count) for text, count in islice(shown, REFUSALS)]
