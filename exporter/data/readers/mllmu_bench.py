"""MLLMU-Bench (https://arxiv.org/abs/2410.22108): people with a portrait, three kinds of tasks.

Questions are put as the benchmark puts them; it answers greedily with at most 50 tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import ascii_uppercase

from exporter.data.fields import Fields, described
from exporter.data.pictures import PictureStore
from exporter.data.readers.base import kept_picture
from exporter.types import Role, Row

ONE_LETTER = "Just give ONE letter representing the answer directly."
BLANK = re.compile("__+")


class MllmuBench:
    """``{image | images, ID, biography, question?, answer?}`` and the three tasks.

    These are ``Classification_Task``, ``Generation_Task`` and ``Mask_Task``. One record becomes many rows, in the slices ``profile`` (the record's own question), ``classification``,
    ``generation`` and ``cloze``; the last three end in ``_text`` where the portrait is not shown. Of several
    portraits the first is shown. Secrets are the biography's values, apart from what the question itself
    says.
    """

    default_role: Role | None = None

    def rows(self, fields: Fields, identity: str, role: Role, pictures: PictureStore) -> list[Row]:
        person = _identifier(fields) or identity
        image = _portrait(fields, pictures)
        facts = _facts(fields)
        return [
            Row(
                id=f"{identity}-{person}-{group}-{number}",
                question=question,
                answer=answer,
                role=role,
                image=image if shown else None,
                secrets=tuple(fact for fact in facts if fact.casefold() not in question.casefold()),
                eval_slice=group if shown else f"{group}_text",
                options=options,
            )
            for number, (group, shown, question, answer, options) in enumerate(_questions(fields), start=1)
        ]


def _questions(fields: Fields) -> Iterator[tuple[str, bool, str, str, tuple[str, ...]]]:
    """(group, whether the portrait is shown, question, answer, options) for everything a record asks."""
    before = len(fields.problems)
    empty = True
    if fields.has("question") or fields.has("answer"):
        empty = False
        yield "profile", True, fields.text("question"), fields.text("answer"), ()
    for shown, task in _choices(fields):
        empty = False
        yield "classification", shown, *_choice(task)
    for key, group in (("Generation_Task", "generation"), ("Mask_Task", "cloze")):
        for task in _tasks(fields, key):
            empty = False
            question = task.text("Question")
            shown = not task.text("Type").casefold().startswith("pure")
            yield (
                group,
                shown,
                BLANK.sub("[Blank]", question) if group == "cloze" else question,
                task.text("Ground_Truth"),
                (),
            )
    if empty and len(fields.problems) == before:
        fields.problems.append(
            "has no question: question, Classification_Task, Generation_Task and Mask_Task are all empty"
        )


def _choices(fields: Fields) -> Iterator[tuple[bool, Fields]]:
    """(whether the portrait is shown, the task) for every classification task."""
    value = _decoded(fields, "Classification_Task")
    if value is None:
        return
    if not isinstance(value, Mapping):
        fields.note("Classification_Task", f"must be an object, received {described(value)}")
        return
    inner = Fields(value, "Classification_Task.", fields.problems)
    for key, shown in (("Image_Textual_Questions", True), ("Pure_Text_Questions", False)):
        yield from ((shown, task) for task in inner.nested(key))


def _choice(task: Fields) -> tuple[str, str, tuple[str, ...]]:
    """(question with its options, the right letter, the options where their letters are A, B, C ... without a gap)."""
    question, letter = task.text("Question"), task.text("Correct_Answer").strip().upper()
    options = task.record.get("Options")
    if not isinstance(options, Mapping):
        task.note("Options", f"must be an object, received {described(options)}")
        return question, letter, ()
    inner = Fields(options, f"{task.where}Options.", task.problems)
    offered = {name: inner.text(name) for name in sorted(options) if options[name] is not None}
    if letter and letter not in offered:
        task.note("Correct_Answer", f"{letter!r} is not among the options {', '.join(offered) or '(none)'}")
    lines = [question, *(f"{name}: {text}" for name, text in offered.items()), ONE_LETTER]
    is_whole = list(offered) == list(ascii_uppercase[: len(offered)])
    return "\n".join(lines), letter, tuple(offered.values()) if is_whole else ()


def _tasks(fields: Fields, key: str) -> list[Fields]:
    value = _decoded(fields, key)
    return Fields({key: value}, fields.where, fields.problems).nested(key)


def _decoded(fields: Fields, key: str) -> object:
    """A field that some releases hold as a structure and others as its JSON text."""
    value = fields.record.get(key)
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        fields.note(key, f"is a string that is not JSON: {error}")
        return None


def _identifier(fields: Fields) -> str | None:
    value = fields.record.get("ID")
    return (
        str(value) if isinstance(value, int) and not isinstance(value, bool) else fields.optional_text("ID")
    )


def _portrait(fields: Fields, pictures: PictureStore) -> Path | None:
    several = fields.items("images")
    inner = Fields({"images[0]": several[0]}, fields.where, fields.problems) if several else fields
    image = kept_picture(inner, "images[0]" if several else "image", pictures)
    if image is None and not several and not fields.has("image"):
        fields.note("image", "is missing")
    return image


def _facts(fields: Fields) -> list[str]:
    """The biography's values as texts; none where it is running text."""
    value = fields.record.get("biography")
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = _decoded(fields, "biography")
    if value is None or isinstance(value, str):
        return []
    if not isinstance(value, Mapping):
        fields.note("biography", f"must be an object or a string, received {described(value)}")
        return []
    return [str(fact).strip() for fact in value.values() if isinstance(fact, str | int) and str(fact).strip()]
