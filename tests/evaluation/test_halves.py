"""What attacks are worded with when they measure stands in no fit: neither in its words nor in its code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from exporter import registry
from exporter.evaluation.attacks.each import Each
from exporter.evaluation.attacks.halves import half_of, held_half, train_half
from exporter.evaluation.attacks.language_words import LANGUAGES
from exporter.fitting.frame_words import WORDS
from exporter.pipeline.attacked_rows import FITTED_WITH

HOME = Path(__file__).resolve().parents[2]
FITS = ("fitting", "methods", "training", "topics", "targets")
CALIBRATES = (
    "calibration_set.py",
    "forget.py",
    "method_fit.py",
    "export.py",
    "distillation.py",
    "loaded_context.py",
)
TEMPLATED = {name: one for name, one in registry.attacks().items() if isinstance(one, Each) and one.wordings}


def imported(files: list[Path]) -> set[str]:
    """Modules of attacks that any of the files imports, and those that these import."""
    found: set[str] = set()
    waiting = list(files)
    while waiting:
        for node in ast.walk(ast.parse(waiting.pop().read_text(encoding="utf-8"))):
            name = node.module if isinstance(node, ast.ImportFrom) else None
            if name and name.startswith("exporter.evaluation.attacks.") and name not in found:
                found.add(name)
                waiting.append(HOME / Path(*name.split(".")).with_suffix(".py"))
    return found


def fitting_code() -> list[Path]:
    files = [path for room in FITS for path in sorted((HOME / "exporter" / room).rglob("*.py"))]
    return [*files, *(HOME / "exporter" / "pipeline" / name for name in CALIBRATES)]


def test_halves_are_two_parts_by_the_seed_alone() -> None:
    texts = [f"wording {number}" for number in range(9)]
    train, held = train_half(texts), held_half(texts)
    assert set(train) | set(held) == set(texts) and not set(train) & set(held)
    assert len(held) == 5 and held_half(texts[::-1]) == held and half_of(texts, "train") == train
    assert held_half(texts, seed=1) != held
    assert held_half(["only"]) == ("only",), "what is measured with is never empty"


def test_code_that_fits_or_calibrates_imports_no_templated_attack() -> None:
    """But for those files whose words are in no fit at all; their code is in the digest of a fit."""
    found = imported(fitting_code())
    assert found == {path.removesuffix(".py").replace("/", ".") for path in FITTED_WITH}
    assert not found & {type(one).__module__ for one in TEMPLATED.values()}


def test_the_look_at_imports_sees_one(tmp_path: Path) -> None:
    """The control."""
    file = tmp_path / "fit.py"
    file.write_text("def f():\n    from exporter.evaluation.attacks.framing import Frame\n")
    assert "exporter.evaluation.attacks.framing_words" in imported([file])


def held_wordings() -> list[str]:
    languages = [text for one in LANGUAGES.values() for text in held_half(one.frames)]
    return [*languages, *(text for one in TEMPLATED.values() for text in held_half(one.wordings))]


def test_no_held_wording_stands_in_what_a_fit_frames_with() -> None:
    known = {
        text.strip().lower() for words in WORDS.values() for texts in vars(words).values() for text in texts
    }
    every_day = (HOME / "exporter" / "pipeline" / "generic_prompts.txt").read_text(encoding="utf-8")
    known |= {line.strip().lower() for line in every_day.splitlines()}
    bare = {text.replace("{q}", "").replace("{n}", "").strip().lower() for text in held_wordings()}
    assert len(bare) > 60
    assert not bare & known


@pytest.mark.parametrize("name", sorted(TEMPLATED))
def test_an_attack_measures_with_its_held_half(name: str) -> None:
    assert TEMPLATED[name].half == "held"
    other = type(TEMPLATED[name])("train")
    draws = {other.worded(random_of(n)) for n in range(200)}
    assert draws == set(train_half(other.wordings)), "the train half can be had, and nothing else with it"


def random_of(number: int):
    import random

    return random.Random(number)
