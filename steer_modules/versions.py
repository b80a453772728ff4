"""The versions of Transformers that a steered checkpoint is for; read before anything else of a checkpoint's code."""

from __future__ import annotations

import re

FLOOR = "5.15.0"
"""The oldest version under which the families of the tests keep the law; older ones call models in other ways, and load nothing."""

TRIED = ("5.15.1", "5.22.2", "5.23.0", "5.24.0")
"""Versions under which a checkpoint was loaded and steered, a tiny Llama at the least; the proof at load decides, under these too."""


def check_version() -> None:
    """Raises ImportError, in one sentence, under a Transformers that is older than the floor."""
    import transformers

    if numbers(transformers.__version__) < numbers(FLOOR):
        raise ImportError(
            f"this checkpoint needs transformers >= {FLOOR}, but transformers {transformers.__version__} is installed; nothing is loaded: "
            "pip install -U transformers"
        )


def lacking(error: ImportError) -> ImportError:
    """What is raised where the installed Transformers lacks a class of the base's family."""
    import transformers

    return ImportError(
        f"transformers {transformers.__version__} lacks a class that this checkpoint needs ({error.msg}); nothing is loaded: pip install "
        "-U transformers"
    )


def requirement() -> dict[str, object]:
    """What config.json says of the versions."""
    return {"transformers": f">={FLOOR}", "tried": list(TRIED)}


def numbers(version: str) -> tuple[int, ...]:
    """The numbers of a release, ``(5, 15, 0)``; what comes after them does not count."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
