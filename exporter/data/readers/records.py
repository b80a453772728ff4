"""Numbered records from a local file, a folder, or a data set of the Hub."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from exporter.data.files import SUFFIXES, read_file
from exporter.errors import InputErrors


@dataclass(frozen=True)
class Records:
    """Records with their numbers from 1 (line numbers for JSON lines).

    What is no record comes as a text saying why. ``label`` tells this source from others in row ids; relative image paths start at ``folder``.
    """

    label: str
    folder: Path
    numbered: Iterable[tuple[int, Mapping[str, object] | str]]

    def __iter__(self) -> Iterator[tuple[int, Mapping[str, object] | str]]:
        return iter(self.numbered)


def open_records(source: str | Path, *, split: str | None = None, name: str | None = None) -> Records:
    """Records of ``source``: an existing file or folder, otherwise a name for ``datasets.load_dataset``.

    Raises:
        InputErrors: there is no such source, it cannot be read, or the split is missing or ambiguous.
    """
    path = Path(source)
    if path.is_file():
        if split is not None or name is not None:
            raise InputErrors(str(source), ["split and name are for data sets; a single file has neither"])
        return Records(path.stem, path.parent, _file_records(path))
    if not path.is_dir() and is_place(source):
        raise InputErrors(str(source), ["no such file or folder"])
    label = "-".join(part for part in (path.name, name, split) if part)
    return Records(label, path if path.is_dir() else Path(), _dataset_records(source, split, name))


def is_place(source: str | Path) -> bool:
    """Whether a source names a place on this machine, there or not, and no data set of the Hub."""
    path = Path(source)
    return path.suffix in SUFFIXES or path.is_absolute() or str(source).startswith(".")


def _file_records(path: Path) -> Iterable[tuple[int, Mapping[str, object] | str]]:
    if path.suffix not in SUFFIXES:
        raise InputErrors(
            str(path), [f"cannot read {path.suffix or 'a file without suffix'}; give {', '.join(SUFFIXES)}"]
        )
    return read_file(path)


def _dataset_records(
    source: str | Path, split: str | None, name: str | None
) -> Iterator[tuple[int, Mapping[str, object]]]:
    try:
        datasets = import_module("datasets")
    except ImportError as error:
        raise InputErrors(
            str(source), ["loading data sets needs the datasets library: pip install 'steerbake[hub]'"]
        ) from error
    path = Path(source)
    saved = path.is_dir() and any(
        (path / file).is_file() for file in ("dataset_info.json", "dataset_dict.json")
    )
    try:
        if saved:
            found = datasets.load_from_disk(str(path))
        else:
            found = datasets.load_dataset(str(source), name)
    except Exception as error:
        raise InputErrors(str(source), [f"cannot be loaded as a data set: {error}"]) from error
    yield from enumerate(_undecoded(datasets, _one_split(source, found, split)), start=1)


def _one_split(source: str | Path, found: object, split: str | None) -> object:
    if not isinstance(found, dict):
        if split is not None:
            raise InputErrors(str(source), [f"was saved without splits; remove split, received {split!r}"])
        return found
    if split is None and len(found) == 1:
        return next(iter(found.values()))
    if split not in found:
        received = "no split was given" if split is None else f"there is no split {split!r}"
        raise InputErrors(str(source), [f"{received}; valid splits: {', '.join(found)}"])
    return found[split]


def _undecoded(datasets: Any, table: Any) -> Any:
    """Images, in lists and structures too, stay the bytes they are: decoding and encoding them again would change the files."""
    for column, feature in table.features.items():
        plain = _as_bytes(datasets, feature)
        if plain != feature:
            table = table.cast_column(column, plain)
    return table


def _as_bytes(datasets: Any, feature: Any) -> Any:
    """A feature whose images are not decoded."""
    if isinstance(feature, datasets.Image):
        return datasets.Image(decode=False)
    if isinstance(feature, dict):
        return {name: _as_bytes(datasets, part) for name, part in feature.items()}
    if isinstance(feature, datasets.List | datasets.LargeList):
        length = {"length": feature.length} if isinstance(feature, datasets.List) else {}
        return type(feature)(_as_bytes(datasets, feature.feature), **length)
    return feature
