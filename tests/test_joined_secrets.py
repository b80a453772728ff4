"""Several secrets in one text are remarked upon, and names, dates and titles with commas are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sound_recipe
from sound_recipe import rows_of, write

from exporter import pipeline
from exporter.pipeline.joined_secrets import joined_secrets
from exporter.types import Row

sound, recipe = sound_recipe.sound, sound_recipe.recipe


def found(answer: str, *secrets: str) -> list[str]:
    return [secret for _, secret in joined_secrets([Row("a", "Where?", answer, "forget", secrets=secrets)])]


JOINED = [
    ("It is Paris, France.", "Paris;France"),
    ("It is Paris, France.", "Paris; France"),
    ("It is Paris, France.", "Paris,France"),
    ("It is Paris, France.", "Paris / France"),
    ("It is Paris, France.", "Paris|France"),
    ("It is Paris, France.", "Paris\nFrance\n"),
    ("It is Paris in France.", "Paris, France"),
    ("Paris.", "Paris, France"),
    ("Paris.", "Lutetia; Panam"),
    ("It is Paris since 1889.", "Paris;1889"),
    ("It was found by Marie Curie.", "Curie, Sklodowska"),
    ("It is Paris, France.", "['Paris', 'France']"),
    ("It is Paris, France.", "('Paris', 'France')"),
    ("フランスのパリです。", "パリ、フランス"),
    ("هي باريس في فرنسا.", "باريس، فرنسا"),
]


@pytest.mark.parametrize(("answer", "secret"), JOINED)
def test_several_secrets_in_one_text_are_found(answer, secret):
    assert found(answer, secret, "Paris") == [secret]


ALONE = [
    ("It was on July 14, 1889.", "July 14, 1889"),
    ("It was on 14 July 1889.", "July 14, 1889"),
    ("It was in July 1889.", "July 14, 1889"),
    ("It is The Good, the Bad and the Ugly.", "The Good, the Bad and the Ugly"),
    ("The good the bad and the ugly!", "The Good, the Bad and the Ugly"),
    ("It is Paris, France.", "Paris, France"),
    ("In PARIS,\nFrance it is.", "Paris, France."),
    ("It is Washington DC.", "Washington, D.C."),
    ("It is Washington D.C.", "Washington, D.C."),
    ("About 1,234,567 people.", "1,234,567"),
    ("About 1234567 people.", "1,234,567"),
    ("It is AC/DC.", "AC / DC"),
    ("It is 3/4 of it.", "3 / 4"),
    ("Write a;b to part them.", "a;b"),
    ("Oslo.", "Paris, France"),
    ("He was Martin Luther King, Jr.", "Martin Luther King, Jr."),
    ("It is in Paris.", "Paris"),
    ("彼は山田、太郎です。", "山田、太郎"),
]


@pytest.mark.parametrize(("answer", "secret"), ALONE)
def test_names_dates_and_titles_are_one_secret(answer, secret):
    assert found(answer, secret) == []


def test_bundled_rows_have_no_such_secret():
    home = Path(__file__).resolve().parent.parent
    for path in sorted(home.glob("benchmarks/**/*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            record = json.loads(line)
            if isinstance(record.get("answer"), str):
                assert found(record["answer"], *record.get("secrets", ())) == [], (path, record)


def test_check_remarks_upon_it_by_row(recipe: Path) -> None:
    rows = rows_of(recipe.parent / "fit.jsonl")
    place = next(number for number, row in enumerate(rows) if row["role"] == "forget")
    assert not any("several in one text" in one for one in pipeline.check_recipe(recipe).remarks)
    rows[place] = {**rows[place], "id": "joined", "secrets": ["Paris;France", rows[place]["answer"]]}
    write(recipe.parent / "fit.jsonl", rows)
    (told,) = (one for one in pipeline.check_recipe(recipe).remarks if "several in one text" in one)
    assert "joined: 'Paris;France'" in told
