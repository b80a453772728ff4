"""A study: trials and what came of them, in a SQLite file that the same command goes on with."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from filelock import FileLock, Timeout
from typing_extensions import Self

from exporter.digests import digest_of
from exporter.errors import InputErrors
from exporter.fitting.space import label

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy
    from optuna import Trial as OptunaTrial

LOG = logging.getLogger(__name__)
WORST = (1.0, 0.0, 0.0)
"""Leak, kept and fluency of parameters that cannot be fitted, for the sampler alone."""
STARTING = 12
"""Trials that are drawn at random before what was found guides them."""


@dataclass(frozen=True)
class Tried:
    """One finished trial, as the study remembers it.

    Attributes:
        values: leakage, identical, fluent; None where the parameters could not be fitted.
        told: everything else that was noted of it, plain data.
    """

    number: int
    values: tuple[float, float, float] | None
    told: Mapping[str, object]


class Study:
    """Trials of one recipe's method on one base and the same rows, as a context in which no other process works on the file.

    Args:
        file: SQLite; it may hold studies of other recipes, bases and rows. A file beside it is locked; the system takes the lock
            from a process that ends, however it ends.
        made_of: what a trial's outcome follows from, a digest by name.

    Raises:
        InputErrors: another process works on the file, or it is no file of studies.
    """

    def __init__(self, file: Path, made_of: Mapping[str, str], seed: int) -> None:
        self.made_of, self.seed = dict(made_of), seed
        self.name = digest_of(self.made_of)[:16]
        self._lock = _locked(file)
        try:
            self._study, self.news = _opened(file, self.name, self.made_of)
            self._study.set_user_attr("made_of", self.made_of)
            self._cut_off()
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @property
    def trials(self) -> list[Tried]:
        """Finished trials, in order; those that were cut off are not among them."""
        found = []
        for one in self._study.get_trials(deepcopy=False):
            told = one.user_attrs.get("told")
            if told is not None and one.values:
                values = cast("tuple[float, float, float]", tuple(one.values))
                found.append(Tried(one.number, None if told["reason"] else values, told))
        return found

    def ask(self) -> Asked:
        """The next trial. The same study asks for the same one, however often it was stopped in between."""
        import optuna

        seed = int(digest_of([self.seed, len(self.trials)])[:8], 16)
        self._study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTING)
        return Asked(self._study.ask())

    def tell(self, asked: Asked, values: Sequence[float] | None, **told: object) -> None:
        """What came of a trial; without values, that its parameters cannot be fitted, and the ``reason``.

        The sampler is told the worst of these, so that it keeps away from them. A share or a margin that is no number is such a reason:
        nothing can be compared with it.
        """
        assert (values is None) == bool(told["reason"])
        wrong = [
            name
            for name, value in zip(("leak", "kept", "fluent"), values or (), strict=False)
            if not math.isfinite(value)
        ]
        margin = told.get("margin")
        if isinstance(margin, float) and not math.isfinite(margin):
            wrong, told["margin"] = [*wrong, "margin"], None
        if wrong:
            values, told["reason"] = None, told["reason"] or f"{', '.join(wrong)}: no number came of it"
        asked.trial.set_user_attr("told", told)
        self._study.tell(asked.trial, list(WORST if values is None else values))

    def _cut_off(self) -> None:
        """Closes trials that a process which was killed left open: they are not counted."""
        from optuna.trial import TrialState

        for one in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self._study.tell(one.number, state=TrialState.FAIL)


class Asked:
    """A trial whose parameters are being chosen (:class:`exporter.fitting.space.Suggest`)."""

    def __init__(self, trial: OptunaTrial) -> None:
        self.trial = trial
        self.number: int = trial.number

    def choice(self, key: str, values: Sequence[object]) -> object:
        """One of the values."""
        labels = [label(value) for value in values]
        return values[labels.index(self.trial.suggest_categorical(key, labels))]

    def number_between(self, key: str, low: float, high: float, *, log: bool) -> float:
        """A number of four digits, as a recipe would have it."""
        found = float(f"{self.trial.suggest_float(key, low, high, log=log):.4g}")
        return min(max(found, low), high)


def _locked(file: Path) -> FileLock:
    """The lock of a file of studies, held; raises InputErrors where another process holds it."""
    lock = FileLock(file.with_name(f"{file.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputErrors(
            str(file),
            ["another process works on this study; wait until it has ended, or give another --folder"],
        ) from None
    return lock


def _opened(file: Path, name: str, made_of: Mapping[str, str]) -> tuple[OptunaStudy, str | None]:
    """The study of a name, begun where there is none, and a sentence where the file has others alone."""
    import optuna
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = f"sqlite:///{file.resolve()}"
    try:
        before = optuna.get_all_study_summaries(storage) if file.exists() else []
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=["minimize", "maximize", "maximize"],  # leak, kept, fluency
            load_if_exists=True,
        )
    except (SQLAlchemyError, StorageInternalError, RuntimeError) as error:  # RuntimeError: of another Optuna
        what = " ".join(str(getattr(error, "orig", error)).split())[:200]
        raise InputErrors(
            str(file),
            [f"is no file of studies that Optuna reads ({what}); move it away, or give another --folder"],
        ) from None
    return study, _news(before, name, made_of)


def _news(summaries: Sequence[object], name: str, made_of: Mapping[str, str]) -> str | None:
    """A sentence where the file holds studies, and none of them is this one."""
    if not summaries or any(getattr(one, "study_name", None) == name for one in summaries):
        return None
    before: Mapping[str, str] = getattr(summaries[-1], "user_attrs", {}).get("made_of", {})
    changed = [key for key, value in made_of.items() if before.get(key) != value]
    are = "is" if len(changed) == 1 and not changed[0].endswith(("rows", "libraries")) else "are"
    return f"{' and '.join(changed)} {are} not what the last study was made of: a new study begins, and the old one stays in the file"
