"""provenance.json: what a published folder was made from, and the SHA-256 of every other file of it.

It is written last. A folder without it, or with a file that it does not name, is not what was published.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

from exporter.artifact import Artifact
from exporter.digests import FileDigests, digest_of, digest_of_file
from exporter.errors import InputErrors, VerificationError
from exporter.publish.files import PROVENANCE, changes, files_of, is_verified
from exporter.publish.origin import ForgetRows, Origin, PinnedBase
from exporter.types import Row

FORMAT: Final = "steerbake-provenance/1"
_SALT = re.compile(r"[0-9a-f]{64}")


class Provenance(Origin, Artifact):
    """The content of provenance.json; ``files`` has the hex SHA-256 by path of every other file of the folder."""

    FILE = PROVENANCE
    REMEDY = "publish it again"

    format: Literal["steerbake-provenance/1"]
    files: dict[str, str]

    def data(self) -> dict[str, object]:
        """The keys that were given, ``format`` first and ``files`` last; older versions did not write all."""
        told = self.model_dump(mode="json", exclude_unset=True)
        return {"format": told.pop("format"), **told}


def seal(folder: Path, origin: Origin, found: FileDigests | None = None) -> Provenance:
    """Writes provenance.json over the files as they are now; returns its content.

    Args:
        origin: what the folder was made from; a seal that it bears is not looked at.
        found: of :func:`sealed_files`, for a caller that has just read them.
    """
    files = dict((found or sealed_files(folder)).files)
    given = {name: getattr(origin, name) for name in Origin.model_fields if name in origin.model_fields_set}
    sealed = Provenance(format=FORMAT, **given, files=files)
    sealed.save(folder / PROVENANCE)
    return sealed


def _others(folder: Path) -> Iterator[str]:
    """Every file of a folder but the provenance itself."""
    return (path for path in files_of(folder) if path != PROVENANCE)


def load(folder: Path) -> Provenance:
    """The provenance of a folder; raises VerificationError where there is none that can be read."""
    try:
        return Provenance.load(folder)
    except FileNotFoundError:
        raise VerificationError(
            f"{folder} has no {PROVENANCE}; `steerbake publish RECIPE --dry-run` writes a folder that has one"
        ) from None
    except OSError as error:
        raise VerificationError(f"{folder / PROVENANCE} cannot be read: {error}") from None


def sealed_files(folder: Path) -> FileDigests:
    """Of every file of a folder that a seal names, read now."""
    return FileDigests.read(folder, _others(folder))


def changed_files(found: FileDigests, provenance: Provenance) -> list[str]:
    """Any file that was changed, is missing or was added since the folder was sealed: one sentence each."""
    return changes(provenance.files, found.files)


def changed_shards(base: PinnedBase, found: Mapping[str, str], where: str) -> list[str]:
    """Shards that are not the pinned base's: one sentence each.

    Args:
        found: hex SHA-256 by the name that the shard has in the release.
        where: whose shards were found.
    """
    pinned = base.shards
    if not pinned:
        return [f"{PROVENANCE} lists no shard of the base, so {where} cannot be compared"]
    lines = [f"{where} has no shard {name}" for name in sorted(set(pinned) - set(found))]
    lines += [
        f"{where} has a shard that the pinned base does not have: {name}"
        for name in sorted(set(found) - set(pinned))
    ]
    both = sorted(set(found) & set(pinned))
    return lines + [
        f"{name} of {where} differs from the pinned base" for name in both if found[name] != pinned[name]
    ]


def tag_of(files: Mapping[str, str]) -> str:
    """The tag that a card pins: it follows from the files, because a card cannot hold the hash of its own commit.

    Args:
        files: hex SHA-256 by path; those that only describe others do not count, and may change under the same tag.
    """
    return (
        f"steerbake-{digest_of({path: digest for path, digest in files.items() if is_verified(path)})[:12]}"
    )


def kept_salt(path: Path) -> bytes:
    """The salt in ``path``: 32 random bytes in hex, drawn where there is none yet, readable by nobody else."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_hex(32) + "\n")
        partial.replace(path)
    return read_salt(path)


def read_salt(path: Path) -> bytes:
    """The 32 bytes of a salt file; raises InputErrors where it is none."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise InputErrors(str(path), ["cannot be read as a salt; expected 64 hexadecimal digits"]) from None
    if not _SALT.fullmatch(text):
        raise InputErrors(str(path), ["is not a salt; expected 64 hexadecimal digits, as in RUN/.work/salt"])
    return bytes.fromhex(text)


def salted(salt: bytes, row: Row) -> str:
    """Hex HMAC-SHA-256 of what a row asks and how it is answered, images by their bytes.

    Case and the width of spaces do not matter, and neither do its id, role, group, wordings or secrets: a request to forget
    seldom comes with them.
    """
    turns = [[_plain(turn.question), _plain(turn.answer or ""), _picture(turn.image)] for turn in row.history]
    content = [_plain(row.question), _plain(row.answer), _picture(row.image), turns]
    return hmac.new(salt, json.dumps(content, ensure_ascii=True).encode(), hashlib.sha256).hexdigest()


def forgotten(salt: bytes, rows: Iterable[Row]) -> ForgetRows:
    """The section ``forget_rows``: how many different rows there are, and their hashes in order of themselves."""
    found = sorted({salted(salt, row) for row in rows if row.role == "forget"})
    return ForgetRows(count=len(found), hmac_sha256=found)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _picture(path: Path | None) -> str | None:
    return None if path is None else digest_of_file(path)
