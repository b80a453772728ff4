"""More questions from the same rows: every subject asked about in the words of other keys.

Rows of one ``key`` ask the same thing in the same words about different subjects, so what differs between them is the
subject: some words of the question, or the image. A gate has to tell subjects apart whatever the wording, and near misses
(other subjects in the very same words) teach it most.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from exporter.fitting.selection import plain
from exporter.types import Row


@dataclass(frozen=True)
class Template:
    """The words of one key around its subject; ``visual``: the subject is the image, and the words are whole."""

    key: str
    visual: bool
    before: tuple[str, ...]
    after: tuple[str, ...]
    subjects: frozenset[str]
    """Subjects to forget that are asked about in these words."""

    def filled(self, subject: str) -> str:
        return " ".join((*self.before, *((subject,) if subject else ()), *self.after))


def templates(rows: Sequence[Row]) -> dict[tuple[str, bool], Template]:
    """Templates by (key, visual); keys with a single subject, or with different words, have none."""
    grouped: dict[tuple[str, bool], list[Row]] = {}
    for row in plain(rows):
        if row.template_id is not None:
            grouped.setdefault((row.template_id, row.image is not None), []).append(row)
    found = {}
    for (key, visual), same in grouped.items():
        words = [tuple(row.question.split()) for row in same]
        before, after = _common(words, visual)
        if not visual and (before + after in words or not before + after):
            continue
        draft = Template(key, visual, before, after, frozenset())
        forget = frozenset(name(row, draft) for row in same if row.role == "forget")
        found[key, visual] = replace(draft, subjects=forget)
    return found


def name(row: Row, template: Template) -> str:
    """What tells the row's subject from others of its template: the words in the gap, or what its image shows."""
    if template.visual:
        return " | ".join(row.secrets) or str(row.image)
    words = row.question.split()
    return " ".join(words[len(template.before) : len(words) - len(template.after)])


def subjects(rows: Sequence[Row]) -> dict[str, str]:
    """Subject by row id, for the rows of keys with a template."""
    found = templates(rows)
    return {
        row.id: name(row, found[row.template_id, row.image is not None])
        for row in plain(rows)
        if row.template_id is not None and (row.template_id, row.image is not None) in found
    }


def swapped_rows(rows: Sequence[Row], each: int, seed: int) -> list[Row]:
    """New questions: every subject in the words of up to ``each`` further keys; the same for the same seed.

    A subject meets only templates that share a subject to forget with one of its own, so that fillers keep their kind, and
    none that a row already asks. Rows to forget, to retain and unknown keep their role. The new rows have no true answer
    (theirs is the original's): they are good for prompts alone.
    """
    found = templates(rows)
    draw = random.Random(seed)
    owners: dict[tuple[bool, str, str], list[Row]] = {}
    for row in plain(rows):
        template = found.get((row.template_id or "", row.image is not None))
        if template is not None and row.role != "reasoning":
            owners.setdefault((template.visual, row.role, name(row, template)), []).append(row)
    roles: dict[tuple[bool, str], set[str]] = {}
    for visual, role, subject in owners:
        roles.setdefault((visual, subject), set()).add(role)
    new = []
    for (visual, _, subject), own in owners.items():
        if len(roles[visual, subject]) > 1:
            continue
        asked = {row.template_id for row in own}
        linked = frozenset().union(*(found[row.template_id or "", visual].subjects for row in own))
        free = [
            t for t in found.values() if t.visual == visual and t.key not in asked and t.subjects & linked
        ]
        for template in draw.sample(free, min(each, len(free))):
            row = own[draw.randrange(len(own))]
            question = template.filled("" if visual else subject)
            new.append(
                replace(row, id=f"{row.id}*{template.key}", question=question, template_id=template.key)
            )
    return new


def _common(words: Sequence[tuple[str, ...]], visual: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Words shared at the beginning and at the end; all of them at the beginning where the image is the subject."""
    if visual:
        return words[0], ()
    shortest = min(len(one) for one in words)
    first = next((i for i in range(shortest) if len({one[i] for one in words}) > 1), shortest)
    most = shortest - first
    last = next((i for i in range(most) if len({one[-1 - i] for one in words}) > 1), most)
    return words[0][:first], words[0][len(words[0]) - last :]
