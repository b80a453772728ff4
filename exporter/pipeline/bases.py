"""The base that is fitted and compiled: as it lies there, converted from ``.bin`` files, or with adapters merged into it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from exporter.adapters import merge, why_not_mergeable
from exporter.atomic import whole_folder, write_json
from exporter.bin_weights import convert
from exporter.digests import digest_of_file
from exporter.errors import InputErrors
from exporter.provenance import digest_of_base, digest_of_code, fetched_adapters
from exporter.publish.origin import AdapterRecord
from exporter.recipe import Recipe
from exporter.usable_base import is_binary, refuse_unusable
from exporter.workspace import Workspace

LOG = logging.getLogger(__name__)


def prepared(recipe: Recipe, source: Path, space: Workspace) -> Path:
    """The folder of the base as it is fitted and compiled; what has to be written of it lies in the run's work folder, and is kept.

    Args:
        source: what the recipe names as its base.

    Raises:
        InputErrors, CompileError: it can be neither read nor written as the recipe asks.
    """
    adapters = fetched_adapters(recipe)
    if reasons := [reason for reason in map(why_not_mergeable, adapters) if reason is not None]:
        raise InputErrors("base.adapters", reasons)
    base = _converted(source, space) if is_binary(source) else source
    return _merged(base, adapters, space) if adapters else base


def adapters_told(recipe: Recipe) -> list[AdapterRecord]:
    """What is published of the adapters in a base: their names where they are the Hub's, and the hash of each file."""
    records = []
    for name, folder in zip(recipe.base.adapters, fetched_adapters(recipe), strict=True):
        files = sorted(folder.glob("adapter_*"))
        records.append(
            AdapterRecord(
                repo=None if recipe.locate(name).is_dir() else name,
                files={file.name: digest_of_file(file) for file in files},
            )
        )
    return records


@contextmanager
def with_safetensors(base: Path, beside: Path) -> Iterator[Path]:
    """A base as it can be compiled: itself, or for as long as needed one converted from ``.bin`` files, in a hidden folder of ``beside``."""
    if not is_binary(base):
        yield base
        return
    refuse_unusable(base)
    beside.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=beside, prefix=".base-") as name:
        _say_converted(base)
        convert(base, Path(name))
        yield Path(name)


def _converted(source: Path, space: Workspace) -> Path:
    folder = space.work / "base" / "converted"
    inputs = {"base": digest_of_base(source), "code": digest_of_code("exporter/bin_weights.py")}

    def write() -> None:
        _say_converted(source)
        with whole_folder(folder) as partial:
            convert(source, partial)

    space.ledger.run("convert-base", inputs, folder, write)
    return folder


def _merged(base: Path, adapters: list[Path], space: Workspace) -> Path:
    folder = space.work / "base" / "merged"
    inputs = {
        "base": digest_of_base(base),
        "adapters": [digest_of_base(adapter) for adapter in adapters],
        "code": digest_of_code("exporter/adapters.py", "exporter/bin_weights.py"),
    }

    def write() -> None:
        with whole_folder(folder) as partial:
            merge(base, adapters, partial)
        record = {"base": str(base), "adapters": [str(one) for one in adapters], "digests": inputs}
        write_json(space.work / "base" / "merged.json", record)

    space.ledger.run("merge-adapters", inputs, folder, write)
    return folder


def _say_converted(base: Path) -> None:
    LOG.warning(
        "warning: %s contains only PyTorch .bin files; its tensors are converted to safetensors, without running any code in them",
        base,
    )
