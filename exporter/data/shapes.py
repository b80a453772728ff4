"""Which public schema records are of, by their keys, so that a wrong ``format`` is one sentence and not one for each record."""

from __future__ import annotations

import re
from collections.abc import Mapping

_TASKS = {"Classification_Task", "Generation_Task", "Mask_Task"}
_CAPTIONS = {"caption", "paraphrased_caption", "perturbed_captions"}
_REWORDED = {"paraphrased_question", "paraphrased_answer", "perturbed_answer", "cot"}
_RESULT = re.compile(r"^####", re.MULTILINE)
NAMES = {
    "tofu": "TOFU",
    "mllmu_bench": "MLLMU-Bench",
    "clear": "CLEAR",
    "gsm8k": "GSM8K",
    "rows": "rows of steerbake",
}


def shape_of(record: Mapping[str, object]) -> str | None:
    """The format that a record looks like; None for none that is known."""
    keys = {key for key, value in record.items() if value is not None}
    asks = {"question", "answer"} <= keys
    if keys & _TASKS or {"ID", "biography"} <= keys:
        return "mllmu_bench"
    if keys & _CAPTIONS:
        return "clear"
    if asks and "role" in keys:
        return "rows"
    if asks and isinstance(record["answer"], str) and _RESULT.search(record["answer"]):
        return "gsm8k"
    return "tofu" if asks and (keys & _REWORDED or keys == {"question", "answer"}) else None


def looks_like(records: list[Mapping[str, object]], chosen: str) -> str | None:
    """The sentence that names another format, where all of some records are of it; None where they are not."""
    shapes = {shape_of(record) for record in records}
    shape = shapes.pop() if len(shapes) == 1 else None
    if shape is None or shape == chosen:
        return None
    role = " and `role:`, one of forget, retain, reasoning, unknown" if shape not in ("rows", "gsm8k") else ""
    return f"the records look like {NAMES[shape]}: write `format: {shape}`{role} for this source"
