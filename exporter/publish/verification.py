"""verification.json: what was checked of a folder, what came out, and the hash of every file that was there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from exporter.artifact import Strict, described
from exporter.atomic import write_json
from exporter.errors import VerificationError
from exporter.publish.files import (
    CHECKPOINT,
    VERIFICATION,
    changes,
    covered,
    is_verified,
    targets_in,
)

LOADING, PARITY, KNOWN_FILES = "strict loading", "parity", "known files"
FIGURES = "figures of the manifest"
FORGETTING = ("leakage_either", "fluent_refusal", "retain_identical")
"""Names of checks. Those of ``FORGETTING`` are measured on test rows."""
AGAIN = "run `steerbake verify {folder} --recipe RECIPE`"


class Check(Strict):
    """One thing that was checked.

    Attributes:
        target: what it was checked of: the name of a target, or the path of another folder.
        told: a sentence with the value and, if the check fails, the fix.
    """

    name: str
    target: str
    holds: bool
    told: str
    value: object = None


class Verification(Strict):
    """The content of verification.json; see docs/publish.md.

    Attributes:
        parity: what was compared with the checkpoint, by target.
        unlearning: what base and steered model forget and keep on test rows; None where no recipe gave any.
        files: hex SHA-256 by path of every file there was, but for those that only describe.
    """

    format: Literal["steerbake-verification/1"] = "steerbake-verification/1"
    created: str
    versions: dict[str, str]
    checks: list[Check]
    parity: dict[str, object]
    unlearning: dict[str, object] | None
    files: dict[str, str]

    @classmethod
    def of(
        cls,
        files: Mapping[str, str],
        checks: list[Check],
        parity: Mapping[str, object],
        unlearning: Mapping[str, object] | None,
        versions: Mapping[str, str],
    ) -> Verification:
        """What was found of a folder, now.

        Args:
            files: of :func:`covered`, from before anything was looked at: what changes meanwhile was not verified.
        """
        return cls(
            created=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            versions=dict(versions),
            checks=checks,
            parity=_finite(parity),
            unlearning=_finite(unlearning),
            files=dict(files),
        )

    @classmethod
    def load(cls, folder: Path) -> Verification:
        """The verification of a folder; raises VerificationError where there is none that can be read."""
        try:
            return cls.read(folder / VERIFICATION)
        except FileNotFoundError:
            raise VerificationError(f"{folder} was never verified; {AGAIN.format(folder=folder)}") from None
        except VerificationError as error:
            raise VerificationError(f"{error}; {AGAIN.format(folder=folder)}") from None

    @classmethod
    def read(cls, path: Path) -> Verification:
        """A verification from a file; raises VerificationError where it cannot be trusted."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise VerificationError(f"{path} is not valid ({described(error)})") from None

    def save(self, path: Path) -> None:
        """Write it whole or not at all."""
        write_json(path, self.data())

    @property
    def failures(self) -> list[Check]:
        """The checks that do not hold."""
        return [check for check in self.checks if not check.holds]

    def problems(self, folder: Path, found: Mapping[str, str] | None = None) -> list[str]:
        """Why the folder must not be published: one sentence each, none if all checks pass.

        Args:
            found: hex SHA-256 by path of the files that lie there, for a caller that has just read them; read here without it.

        What is looked for is what must be there, not only what is said to fail: a verification from which a check was left out
        says nothing of what that check would have found.
        """
        again = AGAIN.format(folder=folder)
        lines = [f"{check.name} of {check.target} failed: {check.told}" for check in self.failures]
        done = {(check.name, check.target) for check in self.checks}
        lines += [
            f"{name} of {target} was not checked; {again}" for name, target in sorted(_wanted(folder) - done)
        ]
        if self.unlearning is None:
            lines.append(
                f"the verification has no unlearning report, so it is unknown whether the model forgets; {again}"
            )
        else:
            missing = _measured(folder) - done
            lines += [f"{name} of {target} was not measured; {again}" for name, target in sorted(missing)]
        there = covered(folder) if found is None else found
        changed = changes(self.files, {path: there[path] for path in filter(is_verified, there)})
        lines += [f"{line} since the folder was verified; {again}" for line in changed]
        return lines


def problems_of(folder: Path, found: Mapping[str, str] | None = None) -> list[str]:
    """Why a folder must not be published: its verification is missing, failed, lacks something, or is older than its files.

    Args:
        found: of :meth:`Verification.problems`.
    """
    try:
        return Verification.load(folder).problems(folder, found)
    except VerificationError as error:
        return [str(error)]


def _wanted(folder: Path) -> set[tuple[str, str]]:
    """Name and target of every check that a verification of this folder must have."""
    targets = targets_in(folder)
    wanted = {(LOADING, CHECKPOINT), (KNOWN_FILES, CHECKPOINT)}
    wanted |= {(LOADING, name) for name in targets}
    return wanted | {(PARITY, name) for name in targets if name != CHECKPOINT}


def _measured(folder: Path) -> set[tuple[str, str]]:
    """Name and target of every check on test rows that it must have: what a target loses of kept replies is its own matter."""
    return {(name, CHECKPOINT) for name in FORGETTING} | {
        (name, target) for name in FORGETTING[:2] for target in targets_in(folder)
    }


def _finite(value: Any) -> Any:
    """The same with numbers that JSON does not know as words."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
