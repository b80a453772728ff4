"""A published folder: checked against its provenance, packed into one file, unpacked again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.atomic import whole_folder
from exporter.data.rows import read_rows
from exporter.digests import FileDigests
from exporter.errors import InputErrors, SteerbakeError, VerificationError
from exporter.look_inside import section_of
from exporter.pipeline.push import beyond_bounds, omissions_of
from exporter.pipeline.staging import of_another_base, released
from exporter.publish import provenance as sealing
from exporter.publish.files import files_of, hashes
from exporter.publish.pack import read_pack, write_pack
from exporter.publish.provenance import Provenance
from exporter.targets.base_weights import BaseWeights
from steer_modules.checks import ProgramError


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Attributes:
        problems: what is wrong: one sentence each.
        statements: what is right, and what was asked: one sentence each.
    """

    problems: list[str]
    statements: list[str]


def check(
    folder: Path, *, base: Path | None = None, salt: Path | None = None, rows: Path | None = None
) -> Checked:
    """Whether a folder is what was published.

    Args:
        base: folder of a base model, whose shards are compared with the pinned ones too.
        salt: RUN/.work/salt of the run that the folder was made by; with ``rows``, reports which of these are forget rows.

    Raises:
        VerificationError: the folder has no provenance that can be read.
        InputErrors: the salt or the rows cannot be read, or one is given without the other.
    """
    if (salt is None) != (rows is None):
        raise InputErrors("--salt and --rows", ["must be given together: the salt is used to hash the rows"])
    provenance = sealing.load(folder)
    problems = _problems(sealing.sealed_files(folder), provenance)
    pinned = provenance.base
    statements = [f"{len(provenance.files)} files are listed, each with its SHA-256"]
    if not problems:
        where = f"{pinned.repo} at {pinned.commit or pinned.revision}" if pinned.repo else "a local folder"
        statements.append(f"the base's shards match the pinned base ({where}, {pinned.fingerprint})")
    if base is not None:
        found = sealing.changed_shards(provenance.base, _shards(base), str(base))
        problems += found
        statements += [] if found else [f"{base} has the same shards"]
    if omitted := provenance.omissions:
        statements += [f"published with --force: {line}" for line in omitted]
    if salt is not None and rows is not None:
        statements += _matches(provenance, salt, rows)
    return Checked(problems, statements)


def pack(folder: Path, out: Path) -> Path:
    """Packs a sealed, verified folder into one file.

    Raises:
        VerificationError: it was changed since it was sealed, or is not verified; the message has the fix.
        CompileError: ``out`` exists.
    """
    provenance = sealing.load(folder)
    beyond = [] if provenance.omissions else beyond_bounds(folder, provenance)
    _refuse(folder, provenance, f"{folder} is not packed", beyond)
    return write_pack(folder, files_of(folder), sealing.tag_of(provenance.files), out)


def unpack(file: Path, out: Path) -> Path:
    """Unpacks a file into the new folder ``out``, whole and checked or not at all.

    Raises:
        VerificationError: the file is no pack, is not whole, or the folder in it is not what was published.
        CompileError: ``out`` exists.
    """
    with whole_folder(out) as folder:
        read_pack(file, folder)
        try:
            _refuse(folder, sealing.load(folder), f"{file} is not unpacked")
        except VerificationError as error:
            raise VerificationError(str(error).replace(str(folder), str(out))) from None
    return out


def _refuse(folder: Path, provenance: Provenance, what: str, beyond: Sequence[str] = ()) -> None:
    there = sealing.sealed_files(folder)
    problems = [*beyond, *_problems(there, provenance), *omissions_of(folder, provenance, there.files)]
    if problems:
        raise VerificationError(f"{what}:\n" + "\n".join(f"  - {one}" for one in problems))


def _problems(there: FileDigests, provenance: Provenance) -> list[str]:
    """Whether the files are those that were sealed, the steering the one that is told of, and the weights beside it the pinned base's."""
    problems = sealing.changed_files(there, provenance)
    try:
        section = section_of(there.folder)
        problems += of_another_base(there, provenance.base)
    except (SteerbakeError, ProgramError, OSError) as error:
        return [*problems, str(error)]
    if section != provenance.section:
        problems.append("the steering differs from the one in provenance.json")
    return problems


def _shards(base: Path) -> dict[str, str]:
    weights = BaseWeights.read(base)
    return {released(name): digest for name, digest in hashes(base, weights.shards).items()}


def _matches(provenance: Provenance, salt: Path, rows: Path) -> list[str]:
    """Which rows of a file are forget rows."""
    key, known = sealing.read_salt(salt), set(provenance.forget_rows.hmac_sha256)
    asked = read_rows(rows)
    found = [row.id for row in asked if sealing.salted(key, row) in known]
    count = provenance.forget_rows.count
    return [
        f"{len(found)} of {len(asked)} rows are among the {count} forget rows",
        *(f"{name} is a forget row" for name in found),
    ]
