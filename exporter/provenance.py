"""What a result was made from: the base model's files, the code, the versions of what it ran with."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from inspect import getfile
from pathlib import Path

from exporter.digests import digest_of, digest_of_file, remembered_digest
from exporter.errors import InputErrors
from exporter.recipe import Recipe
from exporter.registry import targets

PACKAGES = ("steerbake", "torch", "transformers", "tokenizers", "safetensors", "numpy", "pillow")
HOST = (
    "exporter/host.py",
    "exporter/decoding.py",
    "exporter/finite.py",
    "exporter/loading.py",
    "exporter/picture.py",
    "exporter/prompt_batcher.py",
    "exporter/reader.py",
    "exporter/vocabulary.py",
)
"""Code that decides how a model is loaded and how its generations are decoded."""
_HOME = Path(__file__).resolve().parent.parent


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
    return digest_of(
        [
            [
                (file.relative_to(_HOME) if file.is_relative_to(_HOME) else file).as_posix(),
                digest_of_file(file),
            ]
            for file in files
        ]
    )


def target_code() -> list[str]:
    """Code that decides what targets write and what is found of it: ours, what travels with it, and modules of installed packages."""
    files = (path for one in targets().values() for path in (Path(getfile(type(one))), *one.code.values()))
    ours = "exporter/targets"
    return [ours, *sorted({str(path) for path in files if not path.is_relative_to(_HOME / ours)})]


def digest_of_base(folder: Path) -> str:
    """Hex SHA-256 over every byte of a model's files; a file that has not changed since is not read a second time in one process."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return digest_of([[path.relative_to(folder).as_posix(), remembered_digest(path)] for path in files])


def fetched(recipe: Recipe) -> Path:
    """The base model's folder, as one that can be compiled.

    Raises:
        InputErrors: the repository cannot be fetched, or no checkpoint can be made of it (:func:`exporter.usable_base.why_unusable`).
        CompileError: it asks for code of its own that the recipe does not trust.
    """
    from exporter.foreign_code import refuse_code
    from exporter.usable_base import refuse_unusable

    folder = located(recipe)
    refuse_code(folder, trusted=recipe.base.trust_remote_code)
    refuse_unusable(folder)
    return folder


def located(recipe: Recipe) -> Path:
    """The base model's folder, without checks; a Hub repository is downloaded, or found in the cache.

    Raises:
        InputErrors: the repository cannot be fetched.
    """
    base = recipe.base
    if base.path is not None:
        return recipe.locate(base.path)
    assert base.repo is not None
    return _snapshot(recipe.name, "base.repo: ", base.repo, base.revision)


def fetched_adapters(recipe: Recipe) -> list[Path]:
    """The folders of the adapters that a recipe merges into its base, in order.

    Raises:
        InputErrors: one is neither a folder nor a repository that can be downloaded.
    """
    found = []
    for place, name in enumerate(recipe.base.adapters):
        folder = recipe.locate(name)
        found.append(
            folder if folder.is_dir() else _snapshot(recipe.name, f"base.adapters.{place}: ", name, None)
        )
    return found


def folder_of(model: str | Path) -> Path:
    """A model's folder; a repository of the Hub by its name is downloaded, or found in the cache.

    Raises:
        InputErrors: it is neither a folder nor a repository that can be downloaded.
    """
    folder = Path(model).expanduser()
    return folder if folder.is_dir() else _snapshot(str(model), "", str(model), None)


def _snapshot(source: str, key: str, repo: str, revision: str | None) -> Path:
    """The folder of a Hub repository; raises InputErrors where it can neither be fetched nor found in the cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, revision=revision))
    except HFValidationError:
        words = f"{key}{repo} is no folder, and no name of a repository of the Hub (owner/name) either; check the path"
        raise InputErrors(source, [words]) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputErrors(source, [f"{key}{repo} cannot be fetched: {error}"]) from error
