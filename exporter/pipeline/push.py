"""Push of a folder: refused unless its verification is valid; then described for its repository, sealed, and uploaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from exporter import registry
from exporter.digests import FileDigests
from exporter.errors import VerificationError
from exporter.look_inside import section_of
from exporter.pipeline.bounds import bounds_on_checkpoint
from exporter.pipeline.staging import of_another_base, shards_of
from exporter.provenance import versions
from exporter.publish import provenance as sealing
from exporter.publish.card import Card, write_card
from exporter.publish.files import (
    PROVENANCE,
    VERIFICATION,
    changes,
    covered,
    files_of,
    is_described,
    is_verified,
    sweep,
    targets_in,
)
from exporter.publish.hub import Pushed, upload
from exporter.publish.origin import ForgetRows, Origin, PinnedBase
from exporter.publish.provenance import Provenance
from exporter.publish.verification import AGAIN, Verification, problems_of
from exporter.recipe_bounds import Bounds

FORCED = "`--force` publishes it anyway and states that in its card"
STAGE = "run `steerbake publish RECIPE --dry-run`, and push the folder that it stages"
UNTOLD = "not described by its publisher"


@dataclass(frozen=True)
class Request:
    """How a folder is to be pushed.

    Attributes:
        revision: the branch; main by default.
        dry_run: everything but the upload.
        force: push in spite of what is missing, and write that into the card.
    """

    repo_id: str | None = None
    private: bool = False
    revision: str | None = None
    pr: bool = False
    dry_run: bool = False
    force: bool = False


def push(
    folder: Path,
    repo_id: str,
    request: Request,
    *,
    say: Callable[[str], None] = lambda _: None,
    sealed: Provenance | None = None,
) -> Pushed | None:
    """Pushes a verified folder to the Hub in one commit and pins it with a tag; None for a dry run.

    Args:
        sealed: its provenance, by a caller that has just described it for this repository and sealed it.

    Raises:
        VerificationError: it is no steered checkpoint (whatever is forced), or something is missing and not forced; with what
            to do about it.
        PublishError: the Hub does not take it.
    """
    section = _section_of(folder)
    sweep(folder)
    files = covered(folder) if sealed is None else _verified_files(sealed.files)
    provenance, missing = _gate(folder, section, files)
    if missing and not request.force:
        listed = "\n".join(f"  - {one}" for one in missing)
        raise VerificationError(f"{folder} is not pushed:\n{listed}\n{FORCED}")
    omissions = [_without_place(one, folder) for one in missing]
    try:
        verification = Verification.load(folder)
    except VerificationError:
        verification = None
    if sealed is None or omissions:
        told = provenance.model_copy(update={"omissions": tuple(omissions)})
        sealed = described_and_sealed(folder, told, verification, files, repo_id)
    return _send(folder, sealed, repo_id, request, say)


def _send(
    folder: Path, sealed: Provenance, repo_id: str, request: Request, say: Callable[[str], None]
) -> Pushed | None:
    """Uploads a folder that was just sealed; None for a dry run."""
    paths, tag = files_of(folder), sealing.tag_of(sealed.files)
    if request.dry_run:
        for path in paths:
            say(f"{(folder / path).stat().st_size:>15,} {path}")
        say(f"nothing is pushed; {len(paths)} files would be pushed to {repo_id}, under the tag {tag}")
        return None
    done = upload(
        folder,
        repo_id,
        paths=paths,
        message=f"Publish {tag}",
        tag=None if request.pr else tag,
        private=request.private,
        revision=request.revision,
        create_pr=request.pr,
        describes=lambda path: is_described(path) or path == VERIFICATION,
        sealed=sealed.files,
        say=say,
    )
    if done.pr_url is not None:
        say(
            f"the card pins the tag {tag}, which does not exist yet: when the pull request is merged, run `hf repos tag create {repo_id} "
            f"{tag} --revision main`; until then, loading as the card shows fails"
        )
    return done


def described_and_sealed(
    folder: Path,
    provenance: Origin,
    verification: Verification | None,
    files: Mapping[str, str],
    repo_id: str | None,
) -> Provenance:
    """Writes card and evaluation results for where the folder goes, and seals it over a last reading of all files; returns the provenance.

    An old seal stays until there is a new one: it does not fit the new card, but holds what the next attempt needs.

    Args:
        files: of :func:`covered`, as they were read when the folder was looked at.

    Raises:
        VerificationError: one of those was changed meanwhile; there is no new seal then.
    """
    card = Card.of(
        provenance,
        None if verification is None else verification.data(),
        repo_id,
        None if repo_id is None else sealing.tag_of(files),
        list(targets_in(folder)),
        provenance.omissions,
    )
    write_card(folder, card)
    found = sealing.sealed_files(folder)
    if changed := changes(files, _verified_files(found.files)):
        raise VerificationError(
            f"{folder}: {'; '.join(changed)} while its card and report were written; start again"
        )
    return sealing.seal(folder, provenance, found)


def _verified_files(files: Mapping[str, str]) -> dict[str, str]:
    """Those of some files, hex SHA-256 by path, that a verification covers."""
    return {path: digest for path, digest in files.items() if is_verified(path)}


def omissions_of(folder: Path, provenance: Origin, found: Mapping[str, str]) -> list[str]:
    """What is wrong with a folder's verification, unless it was published by force and its card says so.

    Args:
        found: hex SHA-256 by path of the files that lie there.
    """
    return [] if provenance.omissions else problems_of(folder, found)


def _section_of(folder: Path) -> dict[str, object]:
    """What the base was changed by of a checkpoint at the root of a folder; nothing else is pushed, by force or not."""
    if registry.root_at(folder) is None and (kind := registry.kind_of(folder)) is not None:
        raise VerificationError(
            f"{folder} is a {registry.target(kind).folder_kind}; push a folder with a checkpoint at its root, as `steerbake publish` stages it"
        )
    return section_of(folder)


def _gate(
    folder: Path, section: Mapping[str, object], files: Mapping[str, str]
) -> tuple[Origin, Sequence[str]]:
    """The folder's provenance, and everything that is missing before it may be pushed: one sentence each."""
    missing = problems_of(folder, files)
    found = FileDigests(folder, files)
    try:
        provenance = sealing.load(folder)
    except VerificationError as error:
        return _untold(found, section), [*missing, str(error)]
    if provenance.section != section:
        return _untold(found, section), [*missing, f"{PROVENANCE} describes another steering; {STAGE}"]
    if provenance.forgotten == UNTOLD:
        missing.append(f"{PROVENANCE} was written for a push with --force; {STAGE}")
    missing += [f"{one}; {STAGE}" for one in of_another_base(found, provenance.base)]
    return provenance, [*missing, *beyond_bounds(folder, provenance)]


def beyond_bounds(folder: Path, provenance: Origin) -> list[str]:
    """Where what was measured is beyond what the publication requires: it may have been verified by another recipe."""
    try:
        unlearning = Verification.load(folder).unlearning
    except VerificationError:
        unlearning = None
    if unlearning is None:
        return []  # said already
    required = provenance.publication.get("require")
    if not required:
        return []
    has_shares = isinstance(required, dict) and "share" in required
    older = "" if has_shares else f" (its bounds come from a version that did not bound intervals; {STAGE})"
    try:
        bounds = Bounds.model_validate(required)
    except ValidationError:
        return [f"the bounds of publish.require cannot be read{older or f'; {STAGE}'}"]
    try:
        checks = bounds_on_checkpoint(unlearning, bounds)
    except (KeyError, TypeError, ValueError):
        return [
            f"the unlearning report lacks measures that publish.require bounds; {AGAIN.format(folder=folder)}"
        ]
    beyond = "is outside the bounds of publish.require"
    return [f"{check.name} {beyond}: {check.told}{older}" for check in checks if not check.holds]


def _untold(found: FileDigests, section: Mapping[str, Any]) -> Origin:
    """The provenance of a folder without one, for a push with --force."""
    base = {name: section["base"].get(name) for name in ("fingerprint", "architecture", "model_type")}
    return Origin(
        publication={"forgotten": UNTOLD, "language": ["en"]},
        recipe={},
        recipe_name="not known",
        versions=versions(),
        seed=None,
        method=str(section["method"]),
        section=dict(section),
        base=PinnedBase(**base, shards=shards_of(found)),
        forget_rows=ForgetRows(count=0, hmac_sha256=[]),
    )


def _without_place(line: str, folder: Path) -> str:
    """A sentence without the local path of the folder, for publication."""
    for place in sorted({str(folder), str(folder.resolve())}, key=len, reverse=True):
        line = line.replace(place, "FOLDER")
    return line
