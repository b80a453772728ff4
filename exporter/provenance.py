"""What a result was made from: the base model's files, the code, the versions of what it ran with."""

from __future__ import annotations

import platform
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from exporter.errors import CompileError, InputErrors
from exporter.ledger import digest_of, digest_of_file
from exporter.recipe import Recipe

PACKAGES = ("steerbake", "torch", "transformers", "tokenizers", "safetensors", "numpy", "pillow")
HOST = (
    "exporter/host.py",
    "exporter/decoding.py",
    "exporter/picture.py",
    "exporter/reader.py",
    "exporter/vocabulary.py",
)
"""Code that decides how a model is read and what it is heard to say."""
_HOME = Path(__file__).resolve().parent.parent
_WEIGHTS = 1 << 26
"""Files of this many bytes and more are told apart by size and by the bytes at their ends."""


def versions() -> dict[str, str]:
    """Version of Python and of each package that decides what comes out."""
    return {
        "python": platform.python_version(),
        **{package: installed_version(package) for package in PACKAGES},
    }


def installed_version(package: str) -> str:
    """A package's version, or that it is not installed (a checkout that is run in place)."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def digest_of_code(*places: str) -> str:
    """Hex SHA-256 over the Python files of folders or files, named from the folder that holds our packages."""
    files = []
    for place in places:
        path = _HOME / place
        files += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return digest_of([[file.relative_to(_HOME).as_posix(), digest_of_file(file)] for file in files])


@lru_cache(maxsize=8)
def digest_of_base(folder: Path) -> str:
    """Hex SHA-256 over a model's files: whole where they are small, by size and both ends where they are weights."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return digest_of([[path.relative_to(folder).as_posix(), _digest_of_weights(path)] for path in files])


def _digest_of_weights(path: Path) -> str:
    size = path.stat().st_size
    if size < _WEIGHTS:
        return digest_of_file(path)
    with path.open("rb") as file:
        head = file.read(1 << 20)
        file.seek(size - (1 << 20))
        return digest_of([size, head.hex(), file.read().hex()])


def fetched(recipe: Recipe) -> Path:
    """The base model's folder; a Hub repository is downloaded, or found in the cache.

    Raises:
        InputErrors: the repository cannot be fetched.
        CompileError: it is no model, or asks for code of its own that the recipe does not trust.
    """
    from exporter.foreign_code import refuse_code

    base = recipe.base
    if base.path is not None:
        folder = recipe.locate(base.path)
    else:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        assert base.repo is not None
        try:
            folder = Path(snapshot_download(base.repo, revision=base.revision))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise InputErrors(recipe.name, [f"base.repo: {base.repo} cannot be fetched: {error}"]) from error
    if not (folder / "config.json").is_file():
        raise CompileError(f"{folder} has no config.json; name the folder of a Transformers checkpoint")
    refuse_code(folder, trusted=base.trust_remote_code)
    return folder
