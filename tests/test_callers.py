"""Every caller of benchmarks/callers on the installed Transformers, put to a tiny checkpoint: it steers, or it raises."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from benchmarks.callers import __main__ as command
from benchmarks.callers.environments import Workers, environment
from benchmarks.callers.observed import OPEN, RAISES, STEERS, Logits, Question, Seen, Text, verdict
from benchmarks.callers.registry import CORE, known
from benchmarks.callers.subject import Subject
from benchmarks.callers.tiny import tiny_subject
from benchmarks.callers.worker import Table

ANSWERED = (
    "loading: task class",
    "loading: AutoModel",
    "loading: bfloat16",
    "loading: device map cpu",
    "loading: saved and loaded again",
    "loading: pipeline",
    "generating: greedy",
    "generating: beams",
    "generating: sampled",
    "generating: static cache",
    "generating: prompt lookup",
    "generating: assisted by the base",
    "generating: prefill in chunks",
    "generating: from embeddings",
    "generating: behind an earlier turn",
    "whole pass: no labels",
    "whole pass: labels are input ids",
    "whole pass: mask 4d",
    "whole pass: right padding",
    "whole pass: left padding",
    "whole pass: inputs embeds",
    "cached: token by token",
    "cached: random chunks",
    "cached: reordered",
    "cached: selected",
    "cached: repeated",
    "cached: cropped",
    "cached: deep copied",
)
"""Callers that must be answered: raising everywhere would be no proof of anything."""
STILL_OPEN: dict[str, str] = {}
"""Why a caller is known to fail open, by its name; an entry goes as soon as it is steered or refused."""


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return tiny_subject(tmp_path_factory.mktemp("callers"))


@pytest.fixture(scope="module")
def table(subject: Subject) -> Table:
    found = Table(subject)
    assert found.law, "one whole pass steers"
    return found


@pytest.mark.parametrize("name", [name for name in known() if name in CORE])
def test_every_caller_is_steered_or_refused(name: str, table: Table) -> None:
    cell = table.cell(known()[name])
    if cell["word"] == OPEN and name in STILL_OPEN:
        pytest.xfail(STILL_OPEN[name])
    assert name not in STILL_OPEN, "mended: take it off the list"
    assert cell["word"] in (STEERS, RAISES), cell["why"]
    if name in ANSWERED:
        assert cell["word"] == STEERS, cell["why"]
        assert cell["control"] == "tells", "the base answers the same caller"


def test_the_base_in_place_of_the_checkpoint_fails_open(subject: Subject) -> None:
    """The control: whoever gets the base's answers is seen."""
    table = Table(Subject(subject.plain, subject.plain, subject.questions))
    assert not table.law
    for name in ("loading: stock class", "generating: greedy", "whole pass: no labels", "cached: reordered"):
        cell = table.cell(known()[name])
        assert cell["word"] == OPEN, name


def test_callers_that_must_be_answered_exist() -> None:
    assert set(ANSWERED) <= CORE <= set(known())


SECRET = Question("where", (1, 2), (3, 4), secrets=("new lima",))
PLAIN = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 1.0]])


@pytest.mark.parametrize(
    ("said", "word"),
    [("no idea", STEERS), ("In New Lima.", OPEN), ("new", STEERS), ("renew limas", STEERS), ("it is", OPEN)],
)
def test_the_word_for_a_text(said: str, word: str) -> None:
    assert verdict(Text([(SECRET, said)]), Text([(SECRET, "it is")]), {}).word == word


@pytest.mark.parametrize(
    ("logits", "law", "word"),
    [
        (PLAIN + 1, {}, STEERS),
        (PLAIN, {}, OPEN),
        (torch.cat([PLAIN[:2] + 1, PLAIN[2:]]), {}, OPEN),  # one column of the base is one too many
        (PLAIN + 1, {SECRET.ids: PLAIN + 1}, STEERS),
        (PLAIN + 1, {SECRET.ids: PLAIN + 2}, OPEN),  # not the base's, and not the law's either
        (PLAIN * float("nan"), {}, OPEN),
    ],
)
def test_the_word_for_logits(
    logits: torch.Tensor, law: dict[tuple[int, ...], torch.Tensor], word: str
) -> None:
    assert verdict(Logits([Seen(SECRET, logits)]), Logits([Seen(SECRET, PLAIN)]), law).word == word


def test_later_columns_are_held_to_their_own_place() -> None:
    law = {SECRET.ids: PLAIN + 1}
    assert verdict(Logits([Seen(SECRET, (PLAIN + 1)[1:], 1)]), None, law).word == STEERS
    assert verdict(Logits([Seen(SECRET, (PLAIN + 1)[1:])]), None, law).word == OPEN


def test_a_process_that_dies_is_no_refusal(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is one that never answers: the other callers are asked in a process of their own."""
    subject.save(tmp_path / "subject.pt")
    workers = Workers(_installed(), tmp_path / "subject.pt", 60.0)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    (cell,) = workers.cells(["generating: greedy"])
    assert (cell["word"], cell["caller"]) == (OPEN, "generating: greedy")


def test_one_version_in_a_process_of_its_own(subject: Subject, tmp_path: Path) -> None:
    subject.save(tmp_path / "subject.pt")
    workers = Workers(_installed(), tmp_path / "subject.pt", 120.0)
    names = ["loading: stock class", "whole pass: no labels"]
    cells = list(workers.cells(names))
    assert [(cell["caller"], cell["word"]) for cell in cells] == [(names[0], RAISES), (names[1], STEERS)]
    assert workers.versions["transformers"] == _installed()
    found = {_installed(): {cell.pop("caller"): cell for cell in cells}}
    assert command.open_cells(found) == []
    assert "| whole pass: no labels | steers |" in command.table(found)
    assert "PYTHONPATH" in environment(_installed())


def _installed() -> str:
    import transformers

    return transformers.__version__
