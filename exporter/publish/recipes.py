"""What a card shows of a recipe: settings, and no text that might tell what was forgotten."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

NOT_SHOWN = "(not shown)"
_SHOWN: dict[str, tuple[str, ...]] = {
    "base": ("repo", "revision", "dtype"),
    "chat": ("reasoning_template",),
    "methods": ("default", "compare", "params"),
    "report": ("max_new_tokens", "batch_size"),
}
"""Sections and keys that hold settings. Names, descriptions, paths and sources of rows, prompts and refusals do not."""
_SETTING = re.compile(r"[a-z0-9_.-]{1,40}")
_FREE = ("repo", "revision", "reasoning_template")
"""Keys whose texts are no words of a setting, and tell nothing of the rows."""


def shown_recipe(recipe: Mapping[str, Any], *, whole: bool) -> dict[str, Any]:
    """The part of a recipe that may be published; all of it where the publisher shows what was forgotten.

    A list of what may be shown, so that a key that is new to this file is not.
    """
    if whole:
        return dict(recipe)
    found: dict[str, Any] = {"seed": recipe["seed"]} if "seed" in recipe else {}
    for section, keys in _SHOWN.items():
        settings = recipe.get(section)
        if isinstance(settings, Mapping) and (
            some := {key: _setting(key, settings[key]) for key in keys if key in settings}
        ):
            found[section] = some
    return found


def _setting(key: str, value: object) -> object:
    """A setting, with every text in it that is more than a word taken out."""
    if isinstance(value, Mapping):
        return {str(inner): _setting(str(inner), part) for inner, part in value.items()}
    if isinstance(value, list | tuple):
        return [_setting(key, part) for part in value]
    if isinstance(value, str) and key not in _FREE and not _SETTING.fullmatch(value):
        return NOT_SHOWN
    return value
