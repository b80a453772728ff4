"""The rows of a run in three parts, of which the last shares no question with the others, and what identifies them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from exporter.digests import digest_of
from exporter.errors import InputErrors
from exporter.ledger import contents
from exporter.types import Row
from exporter.wording.questions import question_as_asked


@dataclass(frozen=True)
class Splits:
    """Rows that fit, rows that calibrate, rows that are only ever tested on."""

    fit: tuple[Row, ...]
    calibrate: tuple[Row, ...]
    test: tuple[Row, ...]

    def check(self, source: str) -> None:
        """Raises InputErrors where there are any :meth:`problems`."""
        if problems := self.problems():
            raise InputErrors(source, problems)

    def problems(self) -> list[str]:
        """Every id that stands twice in a part, and every test question that also stands in another part.

        The paraphrases of rows count as questions of theirs, for fits, attacks and evaluations ask them too. Questions that differ by case,
        spaces or final punctuation alone are the same.
        """
        problems = [problem for part in ("fit", "calibrate", "test") for problem in self._repeated(part)]
        seen = {asked: row.id for row in (*self.fit, *self.calibrate) for asked in _all_asked(row)}
        problems += [
            f"test row {row.id!r} asks the same question as row {seen[asked]!r}, which the fit uses"
            for row in self.test
            for asked in [next((one for one in _all_asked(row) if one in seen), None)]
            if asked is not None
        ]
        return problems + list(self._contradictions())

    def _contradictions(self) -> Iterator[str]:
        """A question that is to be forgotten by one row and kept by another can be neither."""
        sides: dict[str, Row] = {}
        for row in (*self.fit, *self.calibrate):
            others = [sides.setdefault(asked, row) for asked in _all_asked(row)]
            for other in others:
                if "forget" in (other.role, row.role) and other.role != row.role:
                    yield f"row {row.id!r} ({row.role}) asks the same question as row {other.id!r} ({other.role}); remove one of them"
                    break

    def _repeated(self, part: str) -> Iterator[str]:
        seen: set[str] = set()
        for row in getattr(self, part):
            if row.id in seen:
                yield f"data.{part}: two rows have the id {row.id!r}"
            seen.add(row.id)


def set_aside(rows: Sequence[Row], fraction: float, seed: int) -> tuple[list[Row], list[Row]]:
    """(kept, set aside): about ``fraction`` of each role's rows, whole wordings (rows with one template_id) at a time."""
    aside: set[str] = set()
    for role in sorted({row.role for row in rows}):
        wordings: dict[str, list[str]] = {}
        for row in rows:
            if row.role == role:
                wordings.setdefault(row.template_id or row.id, []).append(row.id)
        order = sorted(wordings)
        random.Random(f"{seed} {role}").shuffle(order)
        wanted = fraction * sum(map(len, wordings.values()))
        taken = 0
        for wording in order[:-1]:
            if taken + len(wordings[wording]) / 2 > wanted:
                break
            aside.update(wordings[wording])
            taken += len(wordings[wording])
    return [row for row in rows if row.id not in aside], [row for row in rows if row.id in aside]


def digest_of_rows(rows: Sequence[Row]) -> str:
    """Hex SHA-256 over everything in the rows, images by their bytes."""
    return digest_of([contents(asdict(row)) for row in rows])


def _all_asked(row: Row) -> Iterator[str]:
    yield _asked(row)
    for question in row.paraphrases:
        yield _asked(replace(row, question=question))


def _asked(row: Row) -> str:
    turns = [(turn.question, turn.image) for turn in row.history]
    parts = [row.question, row.image, *(part for turn in turns for part in turn), row.prefix, row.system]
    return digest_of([question_as_asked(part) if isinstance(part, str) else contents(part) for part in parts])
