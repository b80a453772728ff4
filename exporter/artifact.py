"""JSON files that this library writes and reads back: typed and strict; an error names the key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import Self

from exporter.atomic import write_json
from exporter.digests import digest_of_file
from exporter.errors import VerificationError


class Strict(BaseModel):
    """Read as it was written: a "false" in quotes is no false, and a key that is unknown is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def data(self) -> dict[str, object]:
        """The content as plain data, in the order of the file."""
        return self.model_dump(mode="json")


class Given(Strict):
    """Written with the keys alone that were given: a variant or a family has not every key, and files of before have not all of today's."""

    def data(self) -> dict[str, object]:
        return self.model_dump(mode="json", exclude_unset=True)


class Artifact(Strict):
    """One kind of file. A subclass has its keys as fields, ``format`` first."""

    FILE: ClassVar[str]
    """Its name in a folder."""
    REMEDY: ClassVar[str]
    """What to do where it cannot be trusted, in a few words."""
    INDENT: ClassVar[int] = 1

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The file of a folder.

        Raises:
            FileNotFoundError: there is none.
            VerificationError: it is not valid; the message names the file, the key and the value.
        """
        return cls.read(folder / cls.FILE)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The same of a file by any name."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise VerificationError(f"{path} is not valid ({described(error)}); {cls.REMEDY}") from None

    def save(self, path: Path) -> None:
        """Writes it whole or not at all; raises ValueError where a number is not finite."""
        write_json(path, self.data(), indent=self.INDENT)


class Manifest(Artifact):
    """A file that names others of its folder with their hashes."""

    @property
    def digests(self) -> Mapping[str, str]:
        """Hex SHA-256 by path in the folder."""
        raise NotImplementedError

    def check_files(self, folder: Path, digest: Callable[[Path], str] = digest_of_file) -> None:
        """Raises VerificationError where a file is not the one that is named.

        Args:
            digest: finds a file's hex SHA-256.
        """
        for name, wanted in self.digests.items():
            if not (folder / name).is_file() or digest(folder / name) != wanted:
                raise VerificationError(
                    f"{folder / name} is missing or differs from its entry in {self.FILE}; {self.REMEDY}"
                )


def described(error: ValidationError) -> str:
    """The first thing that is wrong: ``checks.0.bound: input should be a valid number, received 'x'``."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "the file"
    received = (
        "" if first["type"] in ("missing", "json_invalid") else f", received {str(first['input'])[:60]!r}"
    )
    return f"{where}: {first['msg'].lower()}{received}"
