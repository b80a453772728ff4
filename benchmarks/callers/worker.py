"""Runs callers on the Transformers that is first on the path; one JSON line a cell. Needs none of our packages but this one.

python -m benchmarks.callers.worker SUBJECT [NAME ...]
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.callers.observed import RAISES, Observed, Verdict, same, tells, verdict
from benchmarks.callers.passes import over
from benchmarks.callers.registry import Caller, known
from benchmarks.callers.side import Side
from benchmarks.callers.subject import Subject


class Table:
    """The cells of one checkpoint on this Transformers.

    Attributes:
        law: logits of one whole pass of the steered model by a prompt's ids; empty where that pass raises or does not steer.
    """

    def __init__(self, subject: Subject) -> None:
        self.steered = Side(subject.checkpoint, subject.plain, subject.questions, trust=True)
        self.base = Side(subject.plain, subject.plain, subject.questions, trust=False)
        self.law: Mapping[tuple[int, ...], torch.Tensor] = self._law()

    def _law(self) -> dict[tuple[int, ...], torch.Tensor]:
        try:
            with torch.no_grad():
                found = {one.ids: over(self.steered.model, one) for one in self.steered.questions}
                plain = {one.ids: over(self.base.model, one) for one in self.steered.questions}
        except Exception:  # noqa: BLE001 - the cells say what it was
            return {}
        steers = all(
            not bool(same(found[one.ids], plain[one.ids]).any())
            for one in self.steered.questions
            if one.forgotten
        )
        return found if steers else {}

    def cell(self, caller: Caller, refused: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
        """One caller: its word, why, and whether the same works on the base at all.

        Args:
            refused: called with the reason as soon as the steered model has raised: putting the same to the base may end the process.
        """
        observed = self._on_steered(caller)
        if isinstance(observed, Verdict):
            refused(observed.why)
        base, control = self._on_base(caller)
        found = observed if isinstance(observed, Verdict) else verdict(observed, base, self.law)
        return {"word": found.word, "why": found.why, "control": control}

    def _on_steered(self, caller: Caller) -> Observed | Verdict:
        try:
            with torch.no_grad():
                return caller(self.steered)
        except Exception as error:  # noqa: BLE001 - any way of not answering is right
            return Verdict(RAISES, short(error))

    def _on_base(self, caller: Caller) -> tuple[Observed | None, str]:
        try:
            with torch.no_grad():
                observed = caller(self.base)
        except Exception as error:  # noqa: BLE001 - then the caller does not exist on this version
            return None, f"raises: {short(error)}"
        return observed, "tells" if tells(observed) else "does not tell"


def short(error: BaseException) -> str:
    """One line of an error."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:240]


def main() -> int:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    subject, names = Subject.load(Path(sys.argv[1])), sys.argv[2:]
    answer = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what is called may print what it likes
    import transformers

    transformers.logging.set_verbosity_error()

    def say(line: dict[str, Any]) -> None:
        answer.write(json.dumps(line) + "\n")

    say({"transformers": transformers.__version__, "torch": torch.__version__})
    table, callers = Table(subject), known()
    for name in names:
        say({"begins": name})
        cell = table.cell(callers[name], lambda why, name=name: say({"refused": name, "why": why}))
        say({"caller": name, **cell})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
