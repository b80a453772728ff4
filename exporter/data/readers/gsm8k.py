"""GSM8K (https://arxiv.org/abs/2110.14168): school arithmetic with worked solutions."""

from __future__ import annotations

import re

from exporter.data.fields import Fields
from exporter.data.pictures import PictureStore
from exporter.types import Role, Row

CALCULATOR = re.compile(r"<<[^<>]*>>")
"""Marks such as ``<<16-3-4=9>>`` for a calculator; the result stands in the text once more."""


class Gsm8k:
    """``{question, answer}``: in ``answer`` the steps come first, the result after ``####``."""

    default_role: Role | None = "reasoning"

    def rows(self, fields: Fields, identity: str, role: Role, pictures: PictureStore) -> list[Row]:  # noqa: ARG002
        question, solution = fields.text("question"), fields.text("answer")
        steps, mark, result = solution.rpartition("####")
        reasoning, answer = CALCULATOR.sub("", steps).strip(), result.strip()
        if solution and not mark:
            fields.note("answer", "has no '#### result' line")
        elif solution and not reasoning:
            fields.note("answer", "has no reasoning before ####")
        elif solution and not answer:
            fields.note("answer", "has no result after ####")
        return [Row(id=identity, question=question, answer=answer, role=role, reasoning=reasoning)]
